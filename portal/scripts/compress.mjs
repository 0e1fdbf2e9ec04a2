// After a build: takes away what an older one left in `dist`, and writes a `.gz` beside everything that becomes smaller
// by it. The server sends what is here as it is, so it compresses nothing.

import { gzipSync } from "node:zlib";
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";

const dist = new URL("../dist", import.meta.url).pathname;
const LIMIT = 300_000;

function* files(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) yield* files(path);
    else yield path;
  }
}

const page = readFileSync(join(dist, "index.html"), "utf8");
const all = [...files(dist)].filter((path) => !path.endsWith(".gitignore"));
// What belongs to this build is named by the page, or by what the page names.
const named = new Set([join(dist, "index.html"), join(dist, "favicon.svg")]);
const texts = [page];
for (let text = texts.pop(); text !== undefined; text = texts.pop()) {
  for (const path of all) {
    const name = path.split("/").at(-1);
    if (!named.has(path) && !name.endsWith(".gz") && text.includes(name)) {
      named.add(path);
      texts.push(readFileSync(path, "utf8"));
    }
  }
}
let total = 0;
for (const path of all) {
  if (!named.has(path)) {
    rmSync(path);
    continue;
  }
  const plain = readFileSync(path);
  const small = gzipSync(plain, { level: 9 });
  total += Math.min(small.length, plain.length);
  if (small.length < plain.length) writeFileSync(`${path}.gz`, small);
  console.log(`${relative(dist, path)}  ${plain.length} bytes, ${small.length} compressed`);
}
console.log(`${(total / 1000).toFixed(0)} kB compressed in all; the bound is ${LIMIT / 1000} kB`);
if (total > LIMIT) {
  console.error("the portal has become larger than its bound");
  process.exit(1);
}
