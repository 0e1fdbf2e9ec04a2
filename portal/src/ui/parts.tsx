// The small parts that every page is made of.

import { type ButtonHTMLAttributes, type ReactNode, useEffect, useId, useRef, useState } from "react";
import { Refusal } from "../api/client";
import { ago, moment } from "../lib/format";
import { Icon } from "./icon";

export type Tone = "good" | "bad" | "busy" | "warn" | "calm";

const TONES: Record<string, Tone> = {
  Succeeded: "good",
  ready: "good",
  Promoted: "good",
  works: "good",
  found: "good",
  connected: "good",
  Failed: "bad",
  failed: "bad",
  RolledBack: "bad",
  "does not": "bad",
  crashed: "bad",
  Creating: "busy",
  Updating: "busy",
  Deleting: "busy",
  Running: "busy",
  starting: "busy",
  draining: "busy",
  pending: "busy",
  Cancelled: "calm",
  Aborted: "calm",
  missing: "warn",
  unready: "warn",
  disconnected: "calm",
};

/** A state in a word, with a dot for those who look from afar. */
export function State({ state, tone }: { state: string; tone?: Tone }) {
  return (
    <span className={`state ${tone ?? TONES[state] ?? "calm"}`}>
      <span className="dot" aria-hidden="true" />
      {state}
    </span>
  );
}

export function Tag({ children, tone = "calm" }: { children: ReactNode; tone?: Tone }) {
  return <span className={`tag ${tone}`}>{children}</span>;
}

export function When({ time }: { time: string | null | undefined }) {
  const [, again] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => again((n) => n + 1), 20_000);
    return () => clearInterval(timer);
  }, []);
  if (!time) return <span className="faint">never</span>;
  return (
    <time dateTime={time} title={moment(time)}>
      {ago(time)}
    </time>
  );
}

interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  look?: "plain" | "primary" | "danger" | "quiet";
  icon?: string;
  busy?: boolean;
  /** For one that shows an icon alone. */
  label?: string;
}

export function Button({ look = "plain", icon, busy, label, children, className, disabled, ...rest }: ButtonProps) {
  return (
    <button
      type="button"
      className={`button ${look}${children ? "" : " only-icon"} ${className ?? ""}`}
      aria-label={label}
      title={label}
      aria-busy={busy || undefined}
      disabled={disabled || busy}
      {...rest}
    >
      {icon && <Icon name={icon} />}
      {children}
    </button>
  );
}

export function Page({ title, about, actions, crumbs, children }: {
  title: string;
  about?: ReactNode;
  actions?: ReactNode;
  crumbs?: ReactNode;
  children: ReactNode;
}) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${title} · Moorline`;
  }, [title]);
  useEffect(() => {
    // Whoever listens to the page, or goes through it by keys, begins where it begins.
    if (document.activeElement === document.body || document.activeElement?.closest(".shell-nav, .table")) {
      heading.current?.focus({ preventScroll: true });
    }
  }, []);
  return (
    <>
      <header className="page-head">
        <div className="page-title">
          {crumbs && <nav aria-label="Where this is" className="crumbs">{crumbs}</nav>}
          <h1 ref={heading} tabIndex={-1}>{title}</h1>
          {about && <div className="about">{about}</div>}
        </div>
        {actions && <div className="actions">{actions}</div>}
      </header>
      {children}
    </>
  );
}

export function Card({ title, actions, children, flush }: {
  title?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  flush?: boolean;
}) {
  const id = useId();
  return (
    <section className={`card${flush ? " flush" : ""}`} aria-labelledby={title ? id : undefined}>
      {(title || actions) && (
        <header className="card-head">
          {title && <h2 id={id}>{title}</h2>}
          {actions && <div className="actions">{actions}</div>}
        </header>
      )}
      <div className="card-body">{children}</div>
    </section>
  );
}

/** Names and values. What has no value is left out. */
export function Facts({ of }: { of: [string, ReactNode][] }) {
  const there = of.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return (
    <dl className="facts">
      {there.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Empty({ children, action }: { children: ReactNode; action?: ReactNode }) {
  return (
    <div className="empty">
      <p>{children}</p>
      {action}
    </div>
  );
}

export function Trouble({ error, children }: { error: unknown; children?: ReactNode }) {
  const hint = error instanceof Refusal ? error.hint : undefined;
  const problem = error instanceof Refusal ? error.problem : undefined;
  return (
    <div className="trouble" role="alert">
      <Icon name="warning" />
      <div>
        <p>{error instanceof Error ? sentence(error.message) : "Something went wrong."}</p>
        {problem?.diagnostics?.map((diagnostic, index) => (
          <p key={index}>
            {diagnostic.path && <code>{diagnostic.path}</code>} {diagnostic.message}
            {diagnostic.hint && <span className="faint"> ({diagnostic.hint})</span>}
          </p>
        ))}
        {hint && <p className="faint">{sentence(hint)}</p>}
        {children}
      </div>
    </div>
  );
}

/** The server writes what is wrong in lower case, for logs and terminals. */
export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function Waiting({ what = "Loading" }: { what?: string }) {
  // Where the answer comes at once, as it does on one machine, nothing flickers.
  const [shown, show] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => show(true), 250);
    return () => clearTimeout(timer);
  }, []);
  return <p className="waiting" role="status">{shown ? `${what}…` : ""}</p>;
}

export function Copy({ text, label }: { text: string; label: string }) {
  const [done, say] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => say(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <Button
      look="quiet"
      icon={done ? "check" : "copy"}
      label={done ? "Copied" : label}
      onClick={() => void copy(text).then(say)}
    />
  );
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS a page has no clipboard; the old way works still.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

export function Code({ text, label }: { text: string; label: string }) {
  return (
    <div className="code">
      <pre tabIndex={0} role="region" aria-label={label}>{text}</pre>
      <Copy text={text} label={`Copy ${label}`} />
    </div>
  );
}

export function Dialog({ title, open, close, children }: {
  title: string;
  open: boolean;
  close: () => void;
  children: ReactNode;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const own = dialog.current;
    if (!own) return;
    if (open && !own.open) own.showModal();
    if (!open && own.open) own.close();
  }, [open]);
  return (
    <dialog ref={dialog} aria-labelledby={id} onClose={close} onCancel={close}>
      {open && (
        <>
          <header className="card-head">
            <h2 id={id}>{title}</h2>
            <Button look="quiet" icon="close" label="Close" onClick={close} />
          </header>
          <div className="dialog-body">{children}</div>
        </>
      )}
    </dialog>
  );
}

export function Field({ label, hint, children }: { label: string; hint?: ReactNode; children: (id: string) => ReactNode }) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id)}
      {hint && <p className="hint">{hint}</p>}
    </div>
  );
}

/** Asks before something that cannot be undone. */
export function Confirm({ title, children, verb, open, close, act }: {
  title: string;
  children: ReactNode;
  verb: string;
  open: boolean;
  close: () => void;
  act: () => Promise<unknown>;
}) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const go = async () => {
    setBusy(true);
    setError(undefined);
    try {
      await act();
      close();
    } catch (error) {
      setError(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={title} open={open} close={close}>
      {children}
      {error !== undefined && <Trouble error={error} />}
      <div className="dialog-foot">
        <Button onClick={close}>Cancel</Button>
        <Button look="danger" busy={busy} onClick={() => void go()}>{verb}</Button>
      </div>
    </Dialog>
  );
}
