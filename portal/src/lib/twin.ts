// What a device was told against what it says of itself.

export type Standing = "same" | "differs" | "missing" | "own";

export interface Line {
  path: string;
  desired: unknown;
  reported: unknown;
  standing: Standing;
}

/** Keys of a twin that are about it, and not of it. */
const META = new Set(["$metadata", "$version"]);
/** Lines at most: a twin has 32 KiB, and nobody reads more than this. */
const MOST = 2000;

/** Both sides side by side, leaf by leaf, in order of their paths. */
export function compare(desired: unknown, reported: unknown): Line[] {
  const [one, other] = [leaves(desired), leaves(reported)];
  const paths = [...new Set([...one.keys(), ...other.keys()])].sort();
  return paths.slice(0, MOST).map((path) => {
    const told = one.get(path);
    const said = other.get(path);
    const standing: Standing = !one.has(path)
      ? "own"
      : !other.has(path)
        ? "missing"
        : JSON.stringify(told) === JSON.stringify(said)
          ? "same"
          : "differs";
    return { path, desired: told, reported: said, standing };
  });
}

function leaves(value: unknown, path = "", found = new Map<string, unknown>()): Map<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    for (const [key, item] of Object.entries(value)) {
      if (!META.has(key)) leaves(item, path === "" ? key : `${path}.${key}`, found);
    }
  } else if (path !== "" && value !== undefined) {
    found.set(path, value);
  }
  return found;
}
