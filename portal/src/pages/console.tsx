import { useEffect, useRef, useState } from "react";
import { answer, api, refused, Refusal } from "../api/client";
import { token } from "../api/token";
import type { Deployment, Endpoint } from "../api/queries";
import { useSession } from "../api/session";
import { bytes, seconds } from "../lib/format";
import { fromSignature, fromSwagger, readable, type Tensor } from "../lib/sample";
import { Button, Card, Empty, Field, Tag, Trouble } from "../ui/parts";

/** Of an answer, what is shown. */
const SHOWN = 256 << 10;
const KEPT = 10;

interface Call {
  id: number;
  status: number;
  statusText: string;
  headers: [string, string][];
  body: string;
  size: number;
  sent: number;
  /** Until the head of the answer, and until its end, in seconds. */
  head: number;
  whole: number;
}

/** A request by hand, through the gateway, as an application would send it. */
export function Console({ endpoint, below }: { endpoint: Endpoint; below: Deployment[] }) {
  const { workspace, me, may } = useSession();
  const [body, setBody] = useState("");
  const [note, setNote] = useState("");
  const [path, setPath] = useState("score");
  const [deployment, setDeployment] = useState("");
  const [calls, setCalls] = useState<Call[]>([]);
  const [chosen, choose] = useState<number>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const key = useRef<string | undefined>(undefined);
  const touched = useRef(false);
  const next = useRef(1);

  // Through this server's own gateway, wherever applications find the endpoint.
  const ask = async (path: string, init: RequestInit = {}, at = deployment) => {
    key.current ??= await credential(workspace, endpoint, me.signed_in && may("score"));
    const headers = new Headers(init.headers);
    headers.set("authorization", `Bearer ${key.current}`);
    if (at) headers.set("azureml-model-deployment", at);
    return fetch(`/endpoints/${encodeURIComponent(endpoint.name)}/${path}`, { ...init, headers, credentials: "omit", cache: "no-store" });
  };

  useEffect(() => {
    let here = true;
    const begin = async () => {
      const sample = await firstSample((path) => ask(path));
      if (!here || touched.current) return;
      setBody(sample ?? "{}");
      setNote(sample ? "" : "The model does not say what it takes; write a request of your own.");
    };
    begin().catch(() => here && setNote("There is no sample while no deployment answers."));
    return () => {
      here = false;
    };
  }, [endpoint.name, deployment, below.filter(({ provisioning_state }) => provisioning_state === "Succeeded").length]);

  const send = async () => {
    setBusy(true);
    setError(undefined);
    const begun = performance.now();
    try {
      const response = await ask(path.replace(/^\/+/, ""), { method: "POST", headers: { "content-type": "application/json" }, body });
      const head = performance.now();
      const bytes = new Uint8Array(await response.arrayBuffer());
      const whole = performance.now();
      if (response.status === 401) key.current = undefined;
      const call: Call = {
        id: next.current++,
        status: response.status,
        statusText: response.statusText,
        headers: [...response.headers.entries()].sort(([a], [b]) => a.localeCompare(b)),
        body: new TextDecoder().decode(bytes.slice(0, SHOWN)),
        size: bytes.length,
        sent: new Blob([body]).size,
        head: (head - begun) / 1000,
        whole: (whole - begun) / 1000,
      };
      setCalls((calls) => [call, ...calls].slice(0, KEPT));
      choose(undefined);
    } catch (error) {
      setError(error instanceof TypeError ? new Refusal("the server does not answer", 0) : error);
    } finally {
      setBusy(false);
    }
  };

  const shown = calls.find(({ id }) => id === chosen) ?? calls[0];
  return (
    <div className="columns console">
      <Card title="Request">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void send();
          }}
        >
          <div className="fields">
            <Field label="Path">
              {(id) => <input id={id} className="mono" required maxLength={500} value={path} onChange={(event) => setPath(event.target.value)} spellCheck={false} />}
            </Field>
            <Field label="Deployment">
              {(id) => (
                <select id={id} value={deployment} onChange={(event) => setDeployment(event.target.value)}>
                  <option value="">by traffic</option>
                  {below.map(({ name }) => <option key={name}>{name}</option>)}
                </select>
              )}
            </Field>
          </div>
          <Field label="Body" hint={note || "JSON; Ctrl+Enter sends it"}>
            {(id) => (
              <textarea
                id={id}
                className="mono"
                rows={14}
                spellCheck={false}
                value={body}
                onChange={(event) => {
                  touched.current = true;
                  setBody(event.target.value);
                }}
                onKeyDown={(event) => {
                  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !busy) {
                    event.preventDefault();
                    void send();
                  }
                }}
              />
            )}
          </Field>
          <Button look="primary" type="submit" icon="play" busy={busy}>Send</Button>
        </form>
      </Card>
      <Card title="Answer">
        {error !== undefined && <Trouble error={error} />}
        {!shown ? error === undefined && <Empty>Nothing has been sent yet.</Empty> : (
          <div aria-live="polite">
            <p className="status-line">
              <Tag tone={shown.status < 300 ? "good" : shown.status < 500 ? "warn" : "bad"}>{shown.status} {shown.statusText}</Tag>
              <strong>{seconds(shown.whole)}</strong>
              {answeredBy(shown) && <span>by {answeredBy(shown)}</span>}
            </p>
            <Timings call={shown} />
            <pre className="answer" tabIndex={0} role="region" aria-label="Body of the answer">{readable(shown.body)}</pre>
            {shown.size > SHOWN && <p className="hint">The first {bytes(SHOWN)} of {bytes(shown.size)}.</p>}
            <details>
              <summary>{shown.headers.length} headers</summary>
              <dl className="headers">
                {shown.headers.map(([name, value]) => (
                  <div key={name}><dt>{name}</dt><dd>{value}</dd></div>
                ))}
              </dl>
            </details>
          </div>
        )}
        {calls.length > 1 && (
          <>
            <h3>Before</h3>
            <ul className="lines">
              {calls.map((call) => (
                <li key={call.id}>
                  <Button look="quiet" aria-pressed={call === shown} onClick={() => choose(call.id)}>#{call.id}</Button>
                  <Tag tone={call.status < 300 ? "good" : "bad"}>{call.status}</Tag>
                  <span>{answeredBy(call)}</span>
                  <span className="faint">{seconds(call.whole)}</span>
                </li>
              ))}
            </ul>
          </>
        )}
      </Card>
    </div>
  );
}

function answeredBy({ headers }: Call): string | undefined {
  return headers.find(([name]) => name === "azureml-model-deployment")?.[1];
}

function Timings({ call }: { call: Call }) {
  const run = Number(call.headers.find(([name]) => name === "x-ms-run-fn-exec-ms")?.[1]);
  return (
    <dl className="timings">
      <div><dt>Sent</dt><dd>{bytes(call.sent)}</dd></div>
      <div><dt>Until the answer began</dt><dd>{seconds(call.head)}</dd></div>
      {Number.isFinite(run) && <div><dt>of it in the script</dt><dd>{seconds(run / 1000)}</dd></div>}
      <div><dt>Until its end</dt><dd>{seconds(call.whole)}</dd></div>
      <div><dt>Received</dt><dd>{bytes(call.size)}</dd></div>
    </dl>
  );
}

/** What opens the endpoint: the caller's own token where its role may score, and otherwise what the endpoint has. */
async function credential(workspace: string, endpoint: Endpoint, own: boolean): Promise<string> {
  const held = token();
  if (own && held !== undefined) return held;
  const path = { workspace, endpoint: endpoint.name };
  if (endpoint.auth_mode === "key") {
    const keys = await answer(api.POST("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/keys", { params: { path } }));
    return keys.primaryKey;
  }
  const made = await answer(api.POST("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/token", { params: { path } }));
  return made.accessToken;
}

/** What the scorer says of itself; where that has no example, what follows from its tensors. */
async function firstSample(ask: (path: string) => Promise<Response>): Promise<string | undefined> {
  const described = await ask("swagger.json");
  if (!described.ok) throw await refused(described);
  const own = fromSwagger(await described.json());
  if (own) return own;
  const listed = await ask("v2/models");
  if (!listed.ok) return undefined;
  const models: unknown = await listed.json();
  const name = Array.isArray(models) ? (models[0] as { name?: string } | undefined)?.name : undefined;
  if (!name) return undefined;
  const model = await ask(`v2/models/${encodeURIComponent(name)}`);
  if (!model.ok) return undefined;
  return fromSignature(((await model.json()) as { inputs?: Tensor[] }).inputs ?? []);
}
