"""Evidence of a service: observations come and go, and a group's evidence is the sum of what is left."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from mlvae import inference
from mlvae.errors import CheckpointError, EvidenceError
from mlvae.evidence import Evidence
from mlvae.gallery import Gallery, Ranking
from mlvae.group_evidence import GroupEvidence
from mlvae.heads import Array, mark, rows_of
from mlvae.labels import as_labels, refuse_missing, whole
from mlvae.model import MLVAE
from mlvae.store import adding, files
from mlvae.store.layout import COLUMNS, Layout, layout_of, parsed

TABLES = """
create table about (text varchar);
create table ledger (id varchar primary key, owner varchar);
create table votes (id varchar, level varchar, "group" varchar, count bigint, precision double[], information double[]);
create table totals (level varchar, "group" varchar, count bigint, precision double[], information double[]);
"""

TIMES = re.compile(r"[+-]\d+$")
ALL = ", ".join(f'"{name}"' for name in COLUMNS)


class EvidenceStore:
    """A DuckDB file of votes by the id of their observation, and of their sums by group.

    An observation added twice counts once, and can be taken back by its id. After any sequence of both, the evidence of
    a group is the sum of the votes that are left (a retraction adds up again what remains of its groups); a group
    without votes is gone. Each call is one transaction: after a crash all of it or nothing is there.

    Calls open the file and close it, so that many processes can read while one writes now and then; each waits for its
    turn. Within ``with store:`` the file stays open, which is faster, and other processes wait.

    Retraction does not make a network forget that was trained on the observation.

    Args:
        path: of the file; made where there is none, if ``model`` is given.
        model: whose votes these are; None reads, merges and retracts only.
        wait: seconds to wait for another process.

    Raises:
        EvidenceError: the file is of another model, or no evidence store.
        CheckpointError: there is no file and no model, or another process kept the file for too long.

    Example:
        >>> import tempfile, torch
        >>> from mlvae import Level
        >>> model = MLVAE((4,), [Level("content", 2, by="person"), Level("style", 2)], likelihood="normal")
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = EvidenceStore(f"{folder.name}/people.duckdb", model)
        >>> store.add(["photo-1", "photo-2"], torch.randn(2, 4), ["ann", "ann"])
        2
        >>> store.add(["photo-2", "photo-3"], torch.randn(2, 4), ["ann", "bob"])      # one of them is new
        1
        >>> store.retract(["photo-1"])
        1
        >>> store.get(["ann", "bob"]).count().tolist()
        [1, 1]
        >>> folder.cleanup()
    """

    def __init__(self, path: str | Path, model: MLVAE | None = None, *, wait: float = 10.0) -> None:
        self.path, self.model, self.wait = Path(path), model, wait
        self._open: Any = None
        if model is not None and not model.group_levels:
            raise EvidenceError("Expected a model with a level that groups share; it has none. Train one with content.")
        if model is not None and (dependent := [level.name for level in model.group_levels if level.given]):
            raise EvidenceError(
                f"Expected levels whose votes are an observation's own; the head of {dependent[0]!r} sees another."
            )
        if not self.path.exists():
            if model is None:
                raise CheckpointError(f"Expected an evidence store at {path}; there is none. Pass a model to make one.")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._create(files.layout_for(model, "string"))
        with self._connection(read=True) as connection:
            mine = self._layout(connection)
        if model is not None:
            mine.check_adds(files.layout_for(model, mine.label), str(path), "the model passed in")

    def add(self, ids: Sequence[str], x: Array, groups: Any, covariates: Mapping[str, Any] | None = None) -> int:
        """Adds observations; those whose id is known already are not even encoded.

        Args:
            ids: (N,) names of the observations, each the same whenever it comes.
            x: (N, *shape).
            groups: (N,) labels, or such labels for each shared level by name; kept as strings.
            covariates: (N,) values by name, where the model was trained with some.

        Returns:
            How many were new.
        """
        if self.model is None:
            raise EvidenceError("Expected a model to encode observations with; got none. EvidenceStore(path, model).")
        names, x = [str(name) for name in _listed(ids, "ids")], rows_of(x)
        if len(names) != len(x):
            raise EvidenceError(f"Expected one id an observation; got {len(names)} for {len(x)}.")
        with self._connection(read=True) as connection:
            known = self._known(connection, names)
        first = {name: row for row, name in reversed([*enumerate(names)])}
        rows = sorted(row for name, row in first.items() if name not in known)
        if not rows:
            return 0
        labels = groups if isinstance(groups, Mapping) else {self.model.group_levels[0].name: groups}
        labels = {level: as_labels(values) for level, values in labels.items()}
        for level, values in labels.items():
            if values.shape != (len(x),):
                raise EvidenceError(
                    f"Expected one group an observation, shape ({len(x)},), of {level!r}; got {values.shape}."
                )
            refuse_missing(values, f"the groups of {level!r}")
        labels = {level: whole(values[rows]).astype(str) for level, values in labels.items()}
        told = {name: np.asarray(values)[rows] for name, values in (covariates or {}).items()}
        cast = inference.votes(self.model, x[rows], labels, told)
        fresh = [names[row] for row in rows]
        table = _table(fresh, {level: votes for level, (votes, _) in cast.items()}, labels)
        with self._transaction() as connection:
            new = set(fresh) - self._known(connection, fresh)  # another writer may have been faster
            self._enter(connection, {name: name for name in fresh if name in new})
            self._add_rows(connection, table, "id in (select id from entering)")
            return len(new)

    def merge(self, path: str | Path) -> str | None:
        """Adds a file of evidence, once.

        Returns:
            An id to take it back by; None where it was added before.

        Raises:
            EvidenceError: another model, or some of the file was added before as part of another.
        """
        theirs = layout_of(path)
        parts = sorted(f"{part}{times:+d}" for part, times in theirs.ledger.items())
        name = "file-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        with self._transaction() as connection:
            mine = self._layout(connection)
            mine.check_adds(replace(theirs, label=mine.label), str(self.path), str(path))
            known = self._known(connection, [name, *parts])
            if name in known:
                return None
            if known:
                raise EvidenceError(
                    f"Expected evidence that is new to {self.path}; some pieces of {path} were added before, with"
                    " others. Retract those, or merge only what is new."
                )
            self._enter(connection, dict.fromkeys((name, *parts), name))
            for level in mine.levels:
                for batch in files.batches(path, level):
                    labels = {level: np.asarray(batch.groups[level]).astype(str)}
                    table = _table([name] * len(labels[level]), dict(batch.levels), labels)
                    self._add_rows(connection, table, "true")
            return name

    def retract(self, ids: Sequence[str]) -> int:
        """Takes observations, or merged files, back out.

        Returns:
            How many of the ids were there; unknown ones are no error, so a retraction can be repeated.
        """
        names = [str(name) for name in _listed(ids, "ids")]
        with self._transaction() as connection:
            layout = self._layout(connection)
            connection.execute("create or replace temp table leaving (id varchar)")
            connection.execute("insert into leaving select distinct unnest(?)", [names])
            count = connection.execute("select count(*) from leaving semi join ledger using (id)").fetchall()[0][0]
            if not count:
                return 0
            leaving = "votes semi join leaving using (id)"
            connection.execute(f'create or replace temp table touched as select distinct level, "group" from {leaving}')
            connection.execute("delete from votes where id in (select id from leaving)")
            connection.execute("delete from ledger where owner in (select id from leaving)")
            self._refresh(connection, layout, f'(select {ALL} from votes semi join touched using (level, "group"))')
            return int(count)

    def get(self, groups: Sequence[Any] | None = None, level: str = "content") -> GroupEvidence:
        """The evidence of groups by label, empty where one is not known; None takes all that are known."""
        with self._connection(read=True) as connection:
            layout = self._layout(connection)
            about = files.level_of(layout, level, self.path)
            wanted = None if groups is None else whole(as_labels(_listed(groups, "labels"))).astype(str)
            some = "" if wanted is None else ' and "group" in (select unnest(?))'
            query = f"select {ALL} from totals where level = ? and count > 0{some}"
            values = [level] if wanted is None else [level, wanted.tolist()]
            table = connection.sql(query, params=values).to_arrow_table().combine_chunks()
        labels = table.column("group").to_numpy().astype(str) if len(table) else np.empty(0, str)
        parts = [files.evidence_in(batch, about, self.path) for batch in table.to_batches() if len(batch)]
        found = GroupEvidence({level: Evidence.joined(parts, about.dim)}, {level: about.readout}, {level: labels})
        if wanted is None or not len(labels):
            empty = Evidence.empty(0 if wanted is None else len(wanted), about.dim)
            return found if wanted is None else GroupEvidence({level: empty}, found.readouts, {level: wanted})
        return GroupEvidence({level: found.of(level, wanted, len(wanted))}, found.readouts, {level: wanted})

    def query(self, evidence: GroupEvidence, k: int = 5, *, new: float = 0.0, level: str = "content") -> Ranking:
        """Who is it? The k likeliest of the groups that are known now, and none of these; see `Gallery.identify`.

        All evidence of the level is read at each call. For many questions keep ``Gallery(store.get())``.

        Raises:
            EvidenceError: nobody is known yet, or the evidence is of another model.
        """
        if self.model is not None:
            evidence.check_model(mark(self.model))
        known = self.get(level=level)
        if not len(known.levels[level]):
            raise EvidenceError(f"Expected groups of {level!r} in {self.path} to choose among; it has none. Add some.")
        return Gallery(known, level).identify(evidence, k, new=new)

    def export(self, path: str | Path) -> Path:
        """Writes all evidence to a file, as it is now, to be merged elsewhere, where files that are in it are not."""
        with self._connection(read=True) as connection:
            table = connection.sql(f'select {ALL} from totals where count > 0 order by level, "group"').to_arrow_table()
            parts = connection.execute("select id from ledger where id <> owner").fetchall()
            # As `merge` entered them: a part's name, then how many times with its sign.
            ledger = {name[: sign.start()]: int(sign.group()) for (name,) in parts if (sign := TIMES.search(name))}
            layout = replace(self._layout(connection), ledger=ledger)
        return files.write_rows(table, layout, path)

    def __enter__(self) -> Self:
        self._open = self._connect(read=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._open = None

    def _create(self, layout: Layout) -> None:
        with self._transaction() as connection:
            if not connection.execute("select 1 from duckdb_tables() where table_name = 'about'").fetchall():
                connection.execute(TABLES)
                connection.execute("insert into about values (?)", [layout.metadata()])

    def _layout(self, connection: Any) -> Layout:
        try:
            rows = connection.execute("select text from about").fetchall()
        except adding.database().CatalogException as error:
            raise EvidenceError(f"Expected an evidence store; {self.path} is another database.") from error
        return parsed(rows[0][0] if rows else "null", COLUMNS, str(self.path))

    def _known(self, connection: Any, ids: Sequence[str]) -> set[str]:
        rows = connection.execute("select id from ledger where id in (select unnest(?))", [list(ids)]).fetchall()
        return {row[0] for row in rows}

    def _enter(self, connection: Any, owners: Mapping[str, str]) -> None:
        connection.execute("create or replace temp table entering (id varchar, owner varchar)")
        connection.execute("insert into entering select unnest(?), unnest(?)", [[*owners], [*owners.values()]])
        connection.execute("insert into ledger select * from entering")

    def _add_rows(self, connection: Any, table: Any, which: str) -> None:
        layout = self._layout(connection)
        connection.register("incoming", table)
        connection.execute(f"create or replace temp table rows as select * from incoming where {which}")
        connection.unregister("incoming")
        connection.execute(f"insert into votes select id, {ALL} from rows")
        connection.execute('create or replace temp table touched as select distinct level, "group" from rows')
        before = f'select {ALL} from totals semi join touched using (level, "group")'
        self._refresh(connection, layout, f"({before} union all select {ALL} from rows)")

    def _refresh(self, connection: Any, layout: Layout, source: str) -> None:
        """Replaces the totals of the touched groups by the sums of a source."""
        queries = " union all ".join(adding.sums(level, layout, source) for level in layout.levels)
        connection.execute(f"create or replace temp table fresh as {queries}")
        connection.execute('delete from totals where (level, "group") in (select (level, "group") from touched)')
        connection.execute(f"insert into totals select {ALL} from fresh")

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._connection(read=False) as connection:
            connection.execute("begin")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                connection.execute("rollback")
                raise

    @contextmanager
    def _connection(self, *, read: bool) -> Iterator[Any]:
        connection = self._open.cursor() if self._open is not None else self._connect(read=read)
        try:
            yield connection
        finally:
            connection.close()

    def _connect(self, *, read: bool) -> Any:
        duckdb = adding.database()
        until = time.monotonic() + self.wait
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read)
            except duckdb.CatalogException as error:  # read only, of a file that is no database
                raise EvidenceError(f"Expected an evidence store; {self.path} is another kind of file.") from error
            except (duckdb.IOException, duckdb.ConnectionException) as error:
                busy = "lock" in str(error) or "different configuration" in str(error)
                if not busy:
                    raise EvidenceError(f"Expected an evidence store; {self.path} cannot be opened: {error}") from error
                if time.monotonic() > until:
                    raise CheckpointError(
                        f"Expected {self.path} to be free within {self.wait:g} s; another process holds it. Try again,"
                        " or pass a longer `wait`."
                    ) from error
                time.sleep(0.01)


def _listed(names: Sequence[Any], what: str) -> Sequence[Any]:
    """The names, unless they are one text, which would be taken letter by letter."""
    if isinstance(names, str):
        raise EvidenceError(f"Expected a list of {what}; got the text {names!r}. Write [{names!r}].")
    return names


def _table(ids: Sequence[str], levels: Mapping[str, Evidence], labels: Mapping[str, Any]) -> Any:
    """Rows for the table of votes, without those of observations that say nothing."""
    import pyarrow as pa

    parts = [
        pa.table(
            [
                pa.array(ids, pa.string()), pa.repeat(name, len(votes)), pa.array(labels[name], pa.string()),
                pa.array(votes.count.numpy()), files.lists_of(votes.precision), files.lists_of(votes.information),
            ],
            names=["id", *COLUMNS],
        ).filter(pa.array(votes.count.numpy() > 0))
        for name, votes in levels.items()
    ]  # fmt: skip
    return pa.concat_tables(parts)
