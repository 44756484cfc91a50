"""Evidence kept: its files (`layout`, `files`), their sums (`adding`), a service's store (`living`), long encoding jobs
(`jobs`), and a cluster's (`cluster`)."""
