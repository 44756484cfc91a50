// node draw_avatars.mjs IDENTITIES PICTURES FOLDER: writes x.raw (uint8 greys, N x 64 x 64) and columns.json
import { createAvatar } from "@dicebear/core";
import * as lorelei from "@dicebear/lorelei";
import { Resvg } from "@resvg/resvg-js";
import { mkdirSync, writeFileSync } from "node:fs";

const [identities, pictures] = process.argv.slice(2, 4).map(Number);
const folder = process.argv[4] ?? "avatars";
const SIZE = 64;

// A seeded generator (mulberry32), so that the same call draws the same pictures.
let state = 0;
const random = () => {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};
const whole = (low, high) => low + Math.floor(random() * (high - low + 1));
const drawings = Object.fromEntries(
  ["eyes", "eyebrows", "mouth"].map((part) => [part, lorelei.schema.properties[part].items.enum.toSorted()]),
);

const columns = { group: [], eyes: [], eyebrows: [], mouth: [], rotate_deg: [], flip: [], tx: [], ty: [] };
const x = Buffer.alloc(identities * pictures * SIZE * SIZE);

for (let i = 0; i < identities * pictures; i++) {
  const row = { group: Math.floor(i / pictures), rotate_deg: whole(-15, 15), flip: whole(0, 1), tx: whole(-6, 6), ty: whole(-6, 6) };
  for (const part in drawings) row[part] = whole(0, drawings[part].length - 1);
  for (const name in columns) columns[name].push(row[name]);

  // The seed settles everything that is not given here: head, hair, nose, beard, glasses, colours.
  const svg = createAvatar(lorelei, {
    seed: `identity-${row.group}`,
    size: SIZE,
    rotate: (row.rotate_deg + 360) % 360,
    flip: row.flip === 1,
    translateX: row.tx,
    translateY: row.ty,
    hairColor: ["000000", "2c2c2c", "4a4a4a", "7a7a7a", "dddddd"],
    skinColor: ["ffffff", "e0e0e0", "b8b8b8", "888888", "555555"],
    beardProbability: 20,
    earringsProbability: 25,
    frecklesProbability: 20,
    glassesProbability: 30,
    hairAccessoriesProbability: 15,
    ...Object.fromEntries(Object.keys(drawings).map((part) => [part, [drawings[part][row[part]]]])),
  }).toString();
  const rgba = new Resvg(svg, { background: "#b4b4b4" }).render().pixels;
  for (let p = 0; p < SIZE * SIZE; p++)
    x[i * SIZE * SIZE + p] = Math.round(0.299 * rgba[4 * p] + 0.587 * rgba[4 * p + 1] + 0.114 * rgba[4 * p + 2]);
}

mkdirSync(folder, { recursive: true });
writeFileSync(`${folder}/x.raw`, x);
writeFileSync(`${folder}/columns.json`, JSON.stringify(columns));
