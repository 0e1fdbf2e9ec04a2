// The token that a person signed in with. It is kept for the tab alone, and goes nowhere but into a header.

const KEY = "moorline.token";

let held: string | undefined = read();

function read(): string | undefined {
  try {
    return sessionStorage.getItem(KEY) ?? undefined;
  } catch {
    // A browser that keeps nothing lets one sign in all the same.
    return undefined;
  }
}

export function token(): string | undefined {
  return held;
}

export function hold(next: string | undefined): void {
  held = next;
  try {
    if (next === undefined) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, next);
  } catch {
    // As above.
  }
}
