import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useState } from "react";
import { answer, api } from "../api/client";
import { type Deployment, type Endpoint, operation as operationOf } from "../api/queries";
import { useSession } from "../api/session";
import { Button, Card, Dialog, Facts, Field, State, Trouble } from "../ui/parts";
import { useFollowed } from "../ui/operations";
import { useSay } from "../ui/toast";

/** The newest rollout: where it is, or how it ended. */
export function RolloutCard({ endpoint }: { endpoint: Endpoint }) {
  const { workspace, may } = useSession();
  const queries = useQueryClient();
  const say = useSay();
  const rollout = endpoint.rollout;
  const running = rollout?.state === "Running";
  const operation = useQuery({ ...operationOf(workspace, rollout?.operation ?? ""), enabled: running, retry: false });
  const { standing } = useFollowed(running ? operation.data : undefined);
  if (!rollout) return null;
  const abort = async () => {
    try {
      await answer(api.DELETE("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/rollout", { params: { path: { workspace, endpoint: endpoint.name } } }));
      say("The rollout was ended; the traffic is what it was before it");
    } catch (error) {
      say(error instanceof Error ? error.message : "It could not be ended", { bad: true });
    }
    for (const kind of ["endpoint", "endpoints", "operations"]) void queries.invalidateQueries({ queryKey: [kind] });
  };
  const steps = rollout.steps.split(",");
  return (
    <Card
      title={`Rollout to ${rollout.to}`}
      actions={<><State state={rollout.state} />{running && may("write") && <Button look="danger" onClick={() => void abort()}>Roll back</Button>}</>}
    >
      <ol className="steps" aria-label="Steps of the rollout">
        {steps.map((step, index) => (
          <li key={index} className={index + 1 < rollout.step ? "done" : index + 1 === rollout.step ? (running ? "at" : rollout.state === "Promoted" ? "done" : "failed") : ""} aria-current={running && index + 1 === rollout.step ? "step" : undefined}>
            {step.split(":")[0]} %{step.includes(":") && <span className="faint"> {step.split(":")[1]}</span>}
          </li>
        ))}
      </ol>
      {rollout.message && <p>{rollout.message}</p>}
      {running && standing && <p className="faint" role="status">{standing}</p>}
      {running && <Facts of={[["Errors at most", rollout.max_error_rate], ["p99 at most", rollout.max_p99], ["Judged after", `${rollout.min_requests} requests`]]} />}
    </Card>
  );
}

export function RolloutBegin({ endpoint, below, open, close }: { endpoint: Endpoint; below: Deployment[]; open: boolean; close: () => void }) {
  const { workspace } = useSession();
  const queries = useQueryClient();
  const candidates = below.filter(({ name, provisioning_state }) => provisioning_state === "Succeeded" && (endpoint.traffic[name ?? ""] ?? 0) < 100);
  const [to, setTo] = useState("");
  const [steps, setSteps] = useState("10:5m,50:5m,100");
  const [rate, setRate] = useState("1%");
  const [p99, setP99] = useState("");
  const [requests, setRequests] = useState(100);
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    if (open) setTo(candidates.toSorted((a, b) => (endpoint.traffic[a.name ?? ""] ?? 0) - (endpoint.traffic[b.name ?? ""] ?? 0))[0]?.name ?? "");
  }, [open]);
  const begin = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await answer(
        api.POST("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/rollout", {
          params: { path: { workspace, endpoint: endpoint.name } },
          body: { to, steps, max_error_rate: rate, max_p99: p99 || undefined, min_requests: requests },
        }),
      );
      for (const kind of ["endpoint", "endpoints", "operations"]) void queries.invalidateQueries({ queryKey: [kind] });
      close();
    } catch (error) {
      setError(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title="Roll out in steps" open={open} close={close}>
      <form onSubmit={(event) => void begin(event)}>
        <p className="hint">The deployment gets the traffic step by step while errors and p99, as the gateway sees them, keep the bounds. Otherwise the traffic becomes what it was, at once.</p>
        <Field label="To">
          {(id) => <select id={id} value={to} onChange={(event) => setTo(event.target.value)} required>{candidates.map(({ name }) => <option key={name}>{name}</option>)}</select>}
        </Field>
        <Field label="Steps" hint="Percent and how long, as in 10:5m,50:5m,100">
          {(id) => <input id={id} required maxLength={500} value={steps} onChange={(event) => setSteps(event.target.value)} spellCheck={false} />}
        </Field>
        <div className="fields">
          <Field label="Errors at most">{(id) => <input id={id} required maxLength={20} value={rate} onChange={(event) => setRate(event.target.value)} />}</Field>
          <Field label="p99 at most">{(id) => <input id={id} maxLength={20} placeholder="no bound" value={p99} onChange={(event) => setP99(event.target.value)} />}</Field>
          <Field label="Requests to judge by">{(id) => <input id={id} type="number" min={1} max={1_000_000_000} required value={requests} onChange={(event) => setRequests(Number(event.target.value))} />}</Field>
        </div>
        {error !== undefined && <Trouble error={error} />}
        <div className="dialog-foot">
          <Button onClick={close}>Cancel</Button>
          <Button look="primary" type="submit" busy={busy} disabled={to === ""}>Begin</Button>
        </div>
      </form>
    </Dialog>
  );
}
