import { expect, test } from "vitest";
import { ago, bytes, figure, inUnit, seconds } from "./format";

test("sizes have a unit that fits", () => {
  expect([0, 1023, 1024, 1536, 5 << 20, 300 * (1 << 20)].map(bytes)).toEqual([
    "0 B",
    "1023 B",
    "1.0 KiB",
    "1.5 KiB",
    "5.0 MiB",
    "300 MiB",
  ]);
});

test("figures are three", () => {
  expect([0, 1, 0.12345, 12.3456, 999.9, 1234.5, 12345, 2_500_000].map(figure)).toEqual([
    "0",
    "1",
    "0.123",
    "12.3",
    "1000",
    "1235",
    "12.3 k",
    "2.5 M",
  ]);
});

test("durations and units", () => {
  expect([0, 0.0000471, 0.0123, 1.5, 300, 7200].map(seconds)).toEqual(["0 s", "47.1 µs", "12.3 ms", "1.5 s", "5 min", "2 h"]);
  expect(inUnit(0.015, "ratio")).toBe("1.5 %");
  expect(inUnit(12, "1/s")).toBe("12/s");
});

test("times that have passed", () => {
  const now = new Date("2026-12-01T12:00:00Z");
  const then = (seconds: number) => ago(new Date(now.getTime() - seconds * 1000), now);
  expect([1, 50, 130, 7200, 86_400, 3 * 86_400].map(then)).toEqual([
    "just now",
    "1 minute ago",
    "2 minutes ago",
    "2 hours ago",
    "yesterday",
    "3 days ago",
  ]);
  expect(ago("nonsense", now)).toBe("unknown");
});
