import { expect, test } from "vitest";
import { move, same, text, total } from "./shares";

test("what one takes the others give", () => {
  expect(move({ blue: 100, green: 0 }, "green", 10)).toEqual({ blue: 90, green: 10 });
  expect(move({ blue: 90, green: 10 }, "green", 0)).toEqual({ blue: 100, green: 0 });
  expect(move({ blue: 0, green: 100 }, "green", 40)).toEqual({ blue: 60, green: 40 });
  expect(move({ a: 50, b: 30, c: 20 }, "a", 0)).toEqual({ a: 0, b: 60, c: 40 });
});

test("the sum stays, and nobody has less than nothing", () => {
  for (let share = -5; share <= 120; share++) {
    for (const shares of [{ a: 33, b: 33, c: 34 }, { a: 1, b: 98, c: 1 }, { a: 0, b: 0, c: 100 }, { a: 10, b: 30, c: 0 }]) {
      const moved = move(shares, "b", share);
      expect(total(moved), JSON.stringify(moved)).toBe(total(shares));
      expect(Math.min(...Object.values(moved))).toBeGreaterThanOrEqual(0);
    }
  }
});

test("an endpoint without traffic can be given some", () => {
  expect(move({ blue: 0, green: 0 }, "green", 100)).toEqual({ blue: 0, green: 100 });
  expect(move({ blue: 0 }, "blue", 100)).toEqual({ blue: 100 });
});

test("shares are the same whoever has none", () => {
  expect(same({ blue: 100 }, { blue: 100, green: 0 })).toBe(true);
  expect(same({ blue: 100 }, { blue: 90, green: 10 })).toBe(false);
  expect(text({ blue: 90, green: 10, grey: 0 })).toBe("blue 90 %, green 10 %");
  expect(text({})).toBe("no traffic");
});
