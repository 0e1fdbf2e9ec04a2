import { expect, test } from "vitest";
import { EventParser } from "./sse";

test("events are found wherever the pieces are cut", () => {
  const text = ': alive\n\nevent: phase\ndata: {"phase":"start"}\n\nevent: log\r\ndata: a\r\ndata: b\r\n\r\ndata:x\n\n';
  const whole = [
    { event: "phase", data: '{"phase":"start"}' },
    { event: "log", data: "a\nb" },
    { event: "message", data: "x" },
  ];
  for (let size = 1; size <= text.length; size++) {
    const parser = new EventParser();
    const found = [];
    for (let at = 0; at < text.length; at += size) found.push(...parser.push(text.slice(at, at + size)));
    expect(found, `pieces of ${size}`).toEqual(whole);
  }
});

test("an event without an end is refused", () => {
  const parser = new EventParser();
  expect(() => {
    for (let n = 0; n < 10; n++) parser.push("data: ".padEnd(1 << 20, "x"));
  }).toThrow("no end");
});
