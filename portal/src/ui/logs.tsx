// The log of a deployment as it is written. Lines are text, whatever is in them.

import { useEffect, useMemo, useRef, useState } from "react";
import { Refusal, refused, send } from "../api/client";
import { useSession } from "../api/session";
import { texts } from "../lib/sse";
import { Button, Card, Trouble } from "./parts";

/** Lines that are kept: enough to look back, and no page grows without end. */
const KEPT = 3000;
/** Of one line, what is shown. */
const WIDTH = 4000;
const TAIL = 500;
/** Lines come in floods; the page is drawn this often at most, in milliseconds. */
const DRAWN = 120;
const AGAIN = 2000;
const TYPED = 400;
/** The longest id that a request can have. */
const REQUEST_ID = 100;

export function Logs({ endpoint, deployment, replicas }: { endpoint: string; deployment: string; replicas: string[] }) {
  const { workspace } = useSession();
  const [lines, setLines] = useState<{ id: number; text: string }[]>([]);
  const [wanted, want] = useState("");
  const [replica, choose] = useState("");
  const [typed, type] = useState("");
  const [request, ask] = useState("");
  const [follow, setFollow] = useState(true);
  const [error, setError] = useState<unknown>();
  const frame = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const stop = new AbortController();
    let next = 0;
    let fresh: string[] = [];
    let rest = "";
    let timer: ReturnType<typeof setTimeout> | undefined;
    const draw = () => {
      timer = undefined;
      const added = fresh.slice(-KEPT).map((text) => ({ id: next++, text: text.slice(0, WIDTH) }));
      fresh = [];
      setLines((lines) => [...lines, ...added].slice(-KEPT));
    };
    const read = async () => {
      const query = new URLSearchParams({ tail: String(TAIL), follow: "true" });
      if (replica) query.set("replica", replica);
      if (request) query.set("request_id", request);
      const path = ["workspaces", workspace, "online-endpoints", endpoint, "deployments", deployment].map(encodeURIComponent).join("/");
      const response = await send(`/api/v1/${path}/logs?${query.toString()}`, { signal: stop.signal });
      if (!response.ok) throw await refused(response);
      if (!response.body) return;
      setError(undefined);
      // What comes begins with the last lines, again.
      setLines([]);
      rest = "";
      for await (const piece of texts(response.body)) {
        const parts = (rest + piece).split("\n");
        rest = (parts.pop() ?? "").slice(0, WIDTH);
        fresh.push(...parts);
        timer ??= setTimeout(draw, DRAWN);
      }
    };
    const keep = async () => {
      while (!stop.signal.aborted) {
        try {
          await read();
        } catch (error) {
          if (stop.signal.aborted) return;
          // A server that is away is spoken of elsewhere.
          if (error instanceof Refusal && error.status !== 0) setError(error);
        }
        await new Promise((resolve) => setTimeout(resolve, AGAIN));
      }
    };
    void keep();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [workspace, endpoint, deployment, replica, request]);

  // The server looks through all that is kept, once nobody types any more.
  useEffect(() => {
    const timer = setTimeout(() => ask(typed.trim()), TYPED);
    return () => clearTimeout(timer);
  }, [typed]);

  useEffect(() => {
    if (follow && frame.current) frame.current.scrollTop = frame.current.scrollHeight;
  }, [lines, follow, wanted]);

  const shown = useMemo(() => {
    const word = wanted.toLowerCase();
    return word === "" ? lines : lines.filter(({ text }) => text.toLowerCase().includes(word));
  }, [lines, wanted]);

  return (
    <Card
      title="Log"
      flush
      actions={
        <>
          <label>
            <span className="only-heard">Lines with</span>
            <input type="search" placeholder="Lines with…" value={wanted} onChange={(event) => want(event.target.value)} maxLength={200} />
          </label>
          <label>
            <span className="only-heard">Of the request</span>
            <input type="search" placeholder="Request id…" value={typed} onChange={(event) => type(event.target.value)} maxLength={REQUEST_ID} />
          </label>
          {replicas.length > 1 && (
            <label>
              <span className="only-heard">Replica</span>
              <select value={replica} onChange={(event) => choose(event.target.value)}>
                <option value="">all replicas</option>
                {replicas.map((id) => <option key={id}>{id}</option>)}
              </select>
            </label>
          )}
          <Button aria-pressed={follow} onClick={() => setFollow(!follow)}>{follow ? "Following" : "Follow"}</Button>
        </>
      }
    >
      {error !== undefined && <Trouble error={error} />}
      <div
        ref={frame}
        className="log"
        tabIndex={0}
        role="region"
        aria-label="Log lines"
        onScroll={(event) => {
          const { scrollHeight, scrollTop, clientHeight } = event.currentTarget;
          // Whoever goes back to read does not want to be taken away from it.
          if (follow && scrollHeight - scrollTop - clientHeight > 80) setFollow(false);
        }}
      >
        {shown.map(({ id, text }) => <div key={id} className={`log-line${look(text)}`}>{text || " "}</div>)}
        {shown.length === 0 && <div className="faint">{lines.length > 0 ? "No line has this." : request ? "No line is of this request." : "Nothing has been written yet."}</div>}
      </div>
    </Card>
  );
}

function look(text: string): string {
  if (/\b(ERROR|CRITICAL|FATAL|Traceback)\b|"level":\s*"error"/i.test(text.slice(0, 400))) return " bad";
  if (/\bWARN(ING)?\b/i.test(text.slice(0, 400))) return " warn";
  return "";
}
