import { text, type Shares } from "../lib/shares";

/** A traffic split as a bar. Its words are for everyone; the bar is for those who look from afar. */
export function Split({ shares }: { shares: Shares }) {
  const given = Object.entries(shares).filter(([, share]) => share > 0);
  return (
    <span className="split">
      <span className="split-bar" aria-hidden="true">
        {given.map(([name, share]) => (
          <span key={name} className="split-part" style={{ flexGrow: share, background: colour(Object.keys(shares).indexOf(name)) }} />
        ))}
      </span>
      <span className="split-text">{text(shares)}</span>
    </span>
  );
}

/** The colour of a deployment by its place, the same in bars and charts. */
export function colour(index: number): string {
  return `var(--line-${(Math.max(index, 0) % 6) + 1})`;
}
