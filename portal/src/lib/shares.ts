// The shares of an endpoint's traffic: whole percent, 100 in all at most.

export type Shares = Record<string, number>;

export function total(shares: Shares): number {
  return Object.values(shares).reduce((sum, share) => sum + share, 0);
}

/**
 * Gives `name` this share and takes the difference from the others, or gives it to them, in the proportion that they
 * have; the sum stays what it was. Where all the others have nothing, the first one takes it.
 */
export function move(shares: Shares, name: string, share: number): Shares {
  const sum = total(shares) || 100;
  const wanted = Math.max(0, Math.min(Math.round(share), sum));
  const others = Object.keys(shares).filter((other) => other !== name);
  if (others.length === 0) return { [name]: sum === 0 ? wanted : Math.max(wanted, 0) };
  const rest = sum - wanted;
  const had = others.reduce((all, other) => all + (shares[other] ?? 0), 0);
  const exact = others.map((other, index) => (had > 0 ? ((shares[other] ?? 0) / had) * rest : index === 0 ? rest : 0));
  const whole = exact.map(Math.floor);
  // What rounding left goes to those who lost most by it.
  const left = rest - whole.reduce((all, part) => all + part, 0);
  const order = exact.map((part, index) => [part - Math.floor(part), index] as const).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  for (const [, index] of order.slice(0, left)) whole[index] = (whole[index] ?? 0) + 1;
  const moved: Shares = {};
  for (const key of Object.keys(shares)) {
    const index = others.indexOf(key);
    moved[key] = index < 0 ? wanted : (whole[index] ?? 0);
  }
  return moved;
}

/** Whether both give everyone the same; who is not named has nothing. */
export function same(one: Shares, other: Shares): boolean {
  return [...Object.keys(one), ...Object.keys(other)].every((name) => (one[name] ?? 0) === (other[name] ?? 0));
}

export function text(shares: Shares): string {
  const parts = Object.entries(shares).filter(([, share]) => share > 0);
  return parts.length === 0 ? "no traffic" : parts.map(([name, share]) => `${name} ${share} %`).join(", ");
}
