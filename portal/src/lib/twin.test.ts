import { expect, test } from "vitest";
import { compare } from "./twin";

test("both sides of a twin are told apart", () => {
  const desired = { $version: 3, interval: 5, model: { name: "iris", version: 2 }, list: [1, 2] };
  const reported = { $metadata: {}, interval: 5, model: { name: "iris", version: 1 }, list: [1, 2], uptime: 9 };
  expect(compare(desired, reported).map(({ path, standing }) => [path, standing])).toEqual([
    ["interval", "same"],
    ["list", "same"],
    ["model.name", "same"],
    ["model.version", "differs"],
    ["uptime", "own"],
  ]);
  expect(compare({ a: 1 }, undefined)[0]!.standing).toBe("missing");
  expect(compare(undefined, {})).toEqual([]);
});
