import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { Link, useLocation, useParams } from "wouter";
import { answer, api } from "../api/client";
import { collected, deployment as one, endpoint as above, operation as operationOf, operations, reference } from "../api/queries";
import { useSession } from "../api/session";
import { Button, Card, Code, Confirm, Dialog, Empty, Facts, Field, Page, State, Tag, Trouble, Waiting, When } from "../ui/parts";
import { Logs } from "../ui/logs";
import { OperationLine, operationTitle, Timeline, useFollowed } from "../ui/operations";
import { useSay } from "../ui/toast";
import { bytes, plural } from "../lib/format";
import { Charts } from "./charts";

/** What is shown in words above, or is about the record. */
const SAID = ["provisioning_state", "replicas", "error", "generation", "creation_context", "compute_name"];

export function Deployment() {
  const { workspace, at, may } = useSession();
  const params = useParams<{ endpoint: string; deployment: string }>();
  const endpoint = decodeURIComponent(params.endpoint);
  const name = decodeURIComponent(params.deployment);
  const found = useQuery(one(workspace, endpoint, name));
  const parent = useQuery(above(workspace, endpoint)).data;
  const queries = useQueryClient();
  const [, go] = useLocation();
  const [scaling, scale] = useState(false);
  const [deleting, remove] = useState(false);
  const say = useSay();
  const deployment = found.data;
  const share = parent?.traffic[name] ?? 0;
  const model = reference(deployment?.model);
  const refresh = () => {
    for (const kind of ["deployment", "deployments", "endpoint", "endpoints", "operations"]) void queries.invalidateQueries({ queryKey: [kind] });
  };
  const takeAll = async () => {
    if (!parent) return;
    const before = parent.traffic;
    const put = (traffic: Record<string, number>) =>
      answer(api.PATCH("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}", { params: { path: { workspace, endpoint } }, body: { traffic } }));
    try {
      await put({ ...Object.fromEntries(Object.keys(before).map((other) => [other, 0])), [name]: 100 });
      say(`${name} has all traffic`, { undo: () => void put({ [name]: 0, ...before }).finally(refresh) });
    } catch (error) {
      say(error instanceof Error ? error.message : "The traffic could not be moved", { bad: true });
    }
    refresh();
  };
  return (
    <Page
      title={`${endpoint}/${name}`}
      crumbs={<><Link href={at("endpoints")}>Endpoints</Link> / <Link href={at("endpoints", endpoint)}>{endpoint}</Link></>}
      about={deployment && <><State state={deployment.provisioning_state} /> <span>{share} % of the traffic</span></>}
      actions={
        deployment && may("write") && (
          <>
            {share < 100 && deployment.provisioning_state === "Succeeded" && parent?.rollout?.state !== "Running" && <Button onClick={() => void takeAll()}>Give it all traffic</Button>}
            <Button onClick={() => scale(true)}>Scale</Button>
            <Button look="quiet" icon="trash" label="Delete the deployment" onClick={() => remove(true)} />
          </>
        )
      }
    >
      {found.isError ? <Trouble error={found.error} /> : !deployment ? <Waiting /> : (
        <>
          {deployment.error && (
            <Card title="Why it failed">
              <div className="trouble" role="alert"><p>{deployment.error.message}</p></div>
              {deployment.error.log.length > 0 && <Code label="last lines" text={deployment.error.log.join("\n")} />}
            </Card>
          )}
          <Phases endpoint={endpoint} name={name} />
          <div className="columns">
            <Card title="What it is">
              <Facts
                of={[
                  ["Model", model ? <Link href={at("models", model.name, model.version)}>{model.name}:{model.version}</Link> : deployment.model],
                  ["Compute", <Link href={at("computes", deployment.compute_name)}>{deployment.compute_name}</Link>],
                  ["Scoring script", deployment.code_configuration?.scoring_script],
                  ["Environment", deployment.environment && <span className="mono cut">{deployment.environment}</span>],
                  ["Instance type", deployment.instance_type],
                  ["Instances", deployment.instance_count],
                  ["Description", deployment.description],
                  ["Changed", <When time={deployment.creation_context.last_modified_at} />],
                  ["Generation", deployment.generation],
                ]}
              />
              <details>
                <summary>The whole document</summary>
                <Code label="document" text={JSON.stringify(Object.fromEntries(Object.entries(deployment).filter(([key]) => !SAID.includes(key))), null, 2)} />
              </details>
            </Card>
            <Card title="Replicas" flush>
              {!deployment.replicas || deployment.replicas.length === 0 ? <Empty>None runs.</Empty> : (
                <ul className="lines">
                  {deployment.replicas.map(({ id, state, restarts, current }) => (
                    <li key={id}>
                      <span className="mono cut grow">{id}</span>
                      <State state={state} />
                      {restarts > 0 && <Tag tone="warn">{restarts} restarts</Tag>}
                      {!current && <Tag>being replaced</Tag>}
                    </li>
                  ))}
                </ul>
              )}
            </Card>
          </div>
          <Charts endpoint={endpoint} names={[]} deployment={name} />
          {deployment.data_collector && <Collected endpoint={endpoint} name={name} />}
          <Logs endpoint={endpoint} deployment={name} replicas={deployment.replicas?.map(({ id }) => id) ?? []} />
        </>
      )}
      {deployment && (
        <Scale open={scaling} close={() => scale(false)} endpoint={endpoint} name={name} count={deployment.instance_count ?? 1} done={refresh} />
      )}
      <Confirm
        title={`Delete ${endpoint}/${name}`}
        verb="Delete"
        open={deleting}
        close={() => remove(false)}
        act={async () => {
          await answer(api.DELETE("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}", { params: { path: { workspace, endpoint, deployment: name } } }));
          refresh();
          go(at("endpoints", endpoint));
        }}
      >
        <p>{share > 0 ? `It has ${share} % of the traffic, and is not deleted before it has none.` : "It ends once the requests that it has are finished."}</p>
      </Confirm>
    </Page>
  );
}

function Phases({ endpoint, name }: { endpoint: string; name: string }) {
  const { workspace } = useSession();
  const all = useQuery(operations(workspace, `${endpoint}/${name}`)).data;
  const newest = all?.[0];
  const followed = useFollowed(newest);
  const whole = useQuery({ ...operationOf(workspace, newest?.id ?? ""), enabled: newest !== undefined && newest.state !== "Running", retry: false }).data;
  if (!newest) return null;
  const lines = followed.lines.length > 0 ? followed.lines : (whole?.log ?? []);
  return (
    <Card title={operationTitle(newest)} actions={<State state={newest.state} />}>
      <Timeline operation={whole?.id === newest.id ? whole : newest} followed={followed} />
      {lines.length > 0 && (
        <details open={newest.state === "Running"}>
          <summary>What was done</summary>
          <Code label="lines" text={lines.join("\n")} />
        </details>
      )}
      {all.length > 1 && (
        <details>
          <summary>Before that</summary>
          <ul className="lines">{all.slice(1, 20).map((operation) => <li key={operation.id}><OperationLine operation={operation} /></li>)}</ul>
        </details>
      )}
    </Card>
  );
}

function Collected({ endpoint, name }: { endpoint: string; name: string }) {
  const { workspace } = useSession();
  const found = useQuery(collected(workspace, endpoint, name));
  const files = found.data?.value;
  return (
    <Card title="What was collected" flush>
      {found.isError ? <Trouble error={found.error} /> : !files ? <Waiting /> : files.length === 0 ? <Empty>No file has ended yet.</Empty> : (
        <ul className="lines">
          {files.map(({ path, collection, begins_at, records, size }) => (
            <li key={path}>
              <span className="mono cut grow">{collection}</span>
              <span>{plural(records, "record")}</span>
              <span>{bytes(size)}</span>
              <When time={begins_at} />
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

function Scale({ open, close, endpoint, name, count, done }: {
  open: boolean;
  close: () => void;
  endpoint: string;
  name: string;
  count: number;
  done: () => void;
}) {
  const { workspace } = useSession();
  const [wanted, want] = useState<number>();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const leave = () => {
    want(undefined);
    setError(undefined);
    close();
  };
  const scale = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await answer(
        api.PATCH("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}", {
          params: { path: { workspace, endpoint, deployment: name } },
          body: { instance_count: wanted ?? count },
        }),
      );
      done();
      leave();
    } catch (error) {
      setError(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title="Scale" open={open} close={leave}>
      <form onSubmit={(event) => void scale(event)}>
        <Field label="Instances">
          {(id) => <input id={id} type="number" min={0} max={500} required value={wanted ?? count} onChange={(event) => want(Number(event.target.value))} />}
        </Field>
        {error !== undefined && <Trouble error={error} />}
        <div className="dialog-foot">
          <Button onClick={leave}>Cancel</Button>
          <Button look="primary" type="submit" busy={busy}>Scale</Button>
        </div>
      </form>
    </Dialog>
  );
}
