import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { Link } from "wouter";
import { computes, type Deployment, deployments, endpoints, models, operations } from "../api/queries";
import { useSession } from "../api/session";
import { plural } from "../lib/format";
import { Card, Empty, Page, State, Tag, Trouble, Waiting, When } from "../ui/parts";
import { OperationLine } from "../ui/operations";
import { Split } from "../ui/split";

export function Overview() {
  const { workspace, at } = useSession();
  const all = useQuery(endpoints(workspace));
  const below = useQuery(deployments(workspace));
  const registered = useQuery(models(workspace));
  const places = useQuery(computes(workspace));
  const done = useQuery(operations(workspace));
  const replicas = below.data?.flatMap(({ replicas }) => replicas ?? []) ?? [];
  const ready = replicas.filter(({ state }) => state === "ready").length;
  const failed = below.data?.filter(({ provisioning_state }) => provisioning_state === "Failed") ?? [];
  const error = all.error ?? below.error;
  return (
    <Page title="Overview" about={<>Workspace <strong>{workspace}</strong></>}>
      {error && <Trouble error={error} />}
      <ul className="tiles">
        <Tile title="Endpoints" href={at("endpoints")} value={all.data?.length} />
        <Tile title="Deployments" href={at("deployments")} value={below.data?.length} more={failed.length > 0 && <Tag tone="bad">{failed.length} failed</Tag>} />
        <Tile title="Replicas ready" href={at("deployments")} value={below.data && ready} more={<span className="faint">of {replicas.length}</span>} />
        <Tile title="Models" href={at("models")} value={registered.data?.length} />
        <Tile title="Computes" href={at("computes")} value={places.data?.length} />
      </ul>
      <Attention below={below.data ?? []} />
      <div className="columns">
        <Card title="Endpoints" flush actions={<Link className="button quiet" href={at("endpoints")}>All</Link>}>
          {all.isPending ? <Waiting /> : all.data?.length === 0 ? (
            <Empty action={<Link className="button primary" href={at("models")}>Begin with a model</Link>}>
              Nothing is served yet. Register a model, then deploy it under an endpoint.
            </Empty>
          ) : (
            <ul className="lines">
              {all.data?.slice(0, 12).map((endpoint) => (
                <li key={endpoint.name}>
                  <Link href={at("endpoints", endpoint.name)}>{endpoint.name}</Link>
                  <Split shares={endpoint.traffic} />
                  {endpoint.rollout?.state === "Running" && <Tag tone="busy">rollout to {endpoint.rollout.to}</Tag>}
                </li>
              ))}
            </ul>
          )}
        </Card>
        <Card title="Of late" flush>
          {done.isPending ? <Waiting /> : done.data?.length === 0 ? <Empty>Nothing has been done yet.</Empty> : (
            <ul className="lines">
              {done.data?.slice(0, 12).map((operation) => <li key={operation.id}><OperationLine operation={operation} /></li>)}
            </ul>
          )}
        </Card>
      </div>
    </Page>
  );
}

function Tile({ title, value, more, href }: { title: string; value: number | undefined; more?: ReactNode; href: string }) {
  return (
    <li className="tile">
      <Link href={href}>
        <span className="tile-title">{title}</span>
        <span className="tile-value">{value ?? "–"}</span>
      </Link>
      {more && <span className="tile-more">{more}</span>}
    </li>
  );
}

/** What a person has to look at, and why. */
function Attention({ below }: { below: Deployment[] }) {
  const { at } = useSession();
  const troubled = below.filter(({ provisioning_state, replicas }) => {
    const waiting = provisioning_state === "Succeeded" && (replicas?.length ?? 0) > 0 && replicas?.every(({ state }) => state !== "ready");
    return provisioning_state === "Failed" || waiting || replicas?.some(({ restarts }) => restarts >= 3);
  });
  if (troubled.length === 0) return null;
  return (
    <Card title={`${plural(troubled.length, "deployment")} ${troubled.length === 1 ? "needs" : "need"} a look`} flush>
      <ul className="lines">
        {troubled.slice(0, 8).map((deployment) => (
          <li key={`${deployment.endpoint_name}/${deployment.name}`}>
            <Link href={at("deployments", deployment.endpoint_name ?? "", deployment.name ?? "")}>
              {deployment.endpoint_name}/{deployment.name}
            </Link>
            <State state={deployment.provisioning_state} />
            <span className="grow cut">
              {deployment.error?.message ?? (deployment.replicas?.some(({ restarts }) => restarts >= 3) ? "replicas were started again and again" : "no replica is ready")}
            </span>
            <When time={deployment.creation_context.last_modified_at} />
          </li>
        ))}
      </ul>
    </Card>
  );
}
