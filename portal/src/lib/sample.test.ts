import { expect, test } from "vitest";
import { fromSignature, fromSwagger, pretty, readable } from "./sample";

test("the scorer's own example comes first", () => {
  const example = { data: [[1, 2]] };
  expect(fromSwagger({ definitions: { ServiceInput: { example } } })).toBe('{ "data": [[1, 2]] }');
  expect(fromSwagger({ components: { schemas: { ServiceInput: { example } } } })).toBe('{ "data": [[1, 2]] }');
  expect(fromSwagger({ definitions: {} })).toBeUndefined();
  expect(fromSwagger("nonsense")).toBeUndefined();
});

test("zeros have the shape and the type of the inputs", () => {
  expect(JSON.parse(fromSignature([{ name: "x", datatype: "FP32", shape: [-1, 3] }])!)).toEqual({ inputs: { x: [[0, 0, 0]] } });
  const two = fromSignature([
    { name: "a", datatype: "BOOL", shape: [2] },
    { name: "b", datatype: "BYTES", shape: [] },
  ]);
  expect(JSON.parse(two!)).toEqual({ inputs: { a: [false, false], b: "" } });
  expect(fromSignature([{ name: "x", datatype: "FP32", shape: [1, 3, 640, 640] }])).toBeUndefined();
});

test("what is printed is what was there", () => {
  const value = { a: [1, [2, 3], { b: null }], long: "x".repeat(120), nothing: {}, none: [] };
  expect(JSON.parse(pretty(value))).toEqual(value);
  expect(readable("no json")).toBe("no json");
});
