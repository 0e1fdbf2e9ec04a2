// A request to begin with: what the scorer's own description of itself gives as an example, or what follows from the
// declared inputs.

export interface Tensor {
  name: string;
  datatype: string;
  /** -1 is a dimension of any size. */
  shape: number[];
}

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Values in one sample at most: an image of a few megapixels is not something to edit by hand. */
const MOST_VALUES = 4096;

/** The example of `ServiceInput` in a swagger document of a scorer; nothing where it has none. */
export function fromSwagger(document: unknown): string | undefined {
  const root = record(document);
  const schemas = record(root?.definitions) ?? record(record(root?.components)?.schemas);
  const input = record(schemas?.ServiceInput);
  const example = input?.example;
  if (example === undefined || example === null) return undefined;
  return pretty(example as Json);
}

/** A body of zeros for these inputs, in the form that `/score` takes. */
export function fromSignature(inputs: Tensor[]): string | undefined {
  if (inputs.length === 0) return undefined;
  const values = inputs.map((input) => [input.name, zeros(input)] as const);
  if (values.some(([, value]) => value === undefined)) return undefined;
  return pretty({ inputs: Object.fromEntries(values) as Record<string, Json> });
}

function zeros({ datatype, shape }: Tensor): Json | undefined {
  const sizes = shape.map((size) => (size < 0 ? 1 : size));
  if (sizes.reduce((product, size) => product * size, 1) > MOST_VALUES) return undefined;
  const zero: Json = datatype === "BOOL" ? false : datatype === "BYTES" ? "" : 0;
  const build = (depth: number): Json =>
    depth === sizes.length ? zero : Array.from({ length: sizes[depth]! }, () => build(depth + 1));
  return build(0);
}

function record(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
}

/** JSON with short lists on one line, as people write tensors. */
export function pretty(value: Json, indent = ""): string {
  const flat = JSON.stringify(value);
  if (value === null || typeof value !== "object") return flat;
  const spaced = flat.length < 400 ? oneLine(value) : undefined;
  if (spaced !== undefined && spaced.length + indent.length <= 88) return spaced;
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    return `[\n${value.map((item) => inner + pretty(item, inner)).join(",\n")}\n${indent}]`;
  }
  const lines = Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${pretty(item, inner)}`);
  return `{\n${lines.join(",\n")}\n${indent}}`;
}

function oneLine(value: Json): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(oneLine).join(", ")}]`;
  const parts = Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${oneLine(item)}`);
  return parts.length === 0 ? "{}" : `{ ${parts.join(", ")} }`;
}

/** What came back, indented where it is JSON. */
export function readable(text: string): string {
  try {
    return pretty(JSON.parse(text) as Json);
  } catch {
    return text;
  }
}
