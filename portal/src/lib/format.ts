// Numbers, times and sizes as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count: number): string {
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** Three figures, and no more. */
export function figure(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${trim((value / 1e6).toPrecision(3))} M`;
  if (size >= 10_000) return `${trim((value / 1e3).toPrecision(3))} k`;
  if (size >= 999.5) return Math.round(value).toString();
  return trim(value.toPrecision(3));
}

function trim(text: string): string {
  return text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text;
}

export function seconds(value: number): string {
  if (value === 0) return "0 s";
  if (value < 1e-3) return `${figure(value * 1e6)} µs`;
  if (value < 1) return `${figure(value * 1e3)} ms`;
  if (value < 120) return `${figure(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${Math.round(value / 3600)} h`;
}

/** A value of a series in its unit. */
export function inUnit(value: number, unit: string): string {
  switch (unit) {
    case "s":
      return seconds(value);
    case "bytes":
    case "By":
    case "B":
      return bytes(value);
    case "ratio":
      return `${figure(value * 100)} %`;
    case "1/s":
      return `${figure(value)}/s`;
    default:
      return figure(value);
  }
}

const STEPS: [number, Intl.RelativeTimeFormatUnit][] = [
  [86_400, "day"],
  [3600, "hour"],
  [60, "minute"],
];
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export function ago(time: string | Date, now: Date = new Date()): string {
  const passed = (now.getTime() - new Date(time).getTime()) / 1000;
  if (!Number.isFinite(passed)) return "unknown";
  if (Math.abs(passed) < 45) return "just now";
  for (const [size, unit] of STEPS) {
    if (Math.abs(passed) >= size * 0.95) return RELATIVE.format(-Math.round(passed / size), unit);
  }
  return RELATIVE.format(-1, "minute");
}

export function moment(time: string | Date): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? "unknown" : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** The first figures of a digest, enough for people to tell it. */
export function short(digest: string): string {
  return digest.replace(/^sha256:/, "").slice(0, 12);
}

export function plural(count: number, one: string, more = `${one}s`): string {
  return `${count} ${count === 1 ? one : more}`;
}
