import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useLocation, useParams } from "wouter";
import { answer, api } from "../api/client";
import { type Deployment, deployments, endpoint as one } from "../api/queries";
import { useSession } from "../api/session";
import { Button, Card, Confirm, Copy, Empty, Page, State, Tag, Trouble, Waiting } from "../ui/parts";
import { Table } from "../ui/table";
import { Charts } from "./charts";
import { Console } from "./console";
import { Keys } from "./keys";
import { RolloutCard } from "./rollout";
import { replicasReady } from "./deployments";
import { Traffic } from "./traffic";

const PARTS = [
  ["", "Traffic"],
  ["console", "Console"],
  ["keys", "Keys"],
] as const;

export function Endpoint() {
  const { workspace, at, may } = useSession();
  const params = useParams<{ endpoint: string; part?: string }>();
  const name = decodeURIComponent(params.endpoint);
  const found = useQuery(one(workspace, name));
  const below = useQuery(deployments(workspace)).data?.filter(({ endpoint_name }) => endpoint_name?.toLowerCase() === name.toLowerCase());
  const queries = useQueryClient();
  const [, go] = useLocation();
  const [deleting, remove] = useState(false);
  const endpoint = found.data;
  const parts = PARTS.filter(([name]) => name === "" || (name === "console" ? may("keys") || may("score") : may("keys")));
  // What a role may not do is not there, whatever the address says.
  const part = parts.find(([key]) => key === params.part)?.[0] ?? "";
  return (
    <Page
      title={name}
      crumbs={<Link href={at("endpoints")}>Endpoints</Link>}
      about={
        endpoint && (
          <>
            <State state={endpoint.provisioning_state} />
            <span className="mono cut uri">{endpoint.scoring_uri}</span>
            <Copy text={endpoint.scoring_uri} label="Copy the scoring URI" />
          </>
        )
      }
      actions={may("write") && <Button look="quiet" icon="trash" label="Delete the endpoint" onClick={() => remove(true)} />}
    >
      {found.isError ? <Trouble error={found.error} /> : !endpoint ? <Waiting /> : (
        <>
          <nav className="tabs" aria-label="Parts of the endpoint">
            {parts.map(([key, title]) => (
              <Link key={key} href={key === "" ? at("endpoints", name) : at("endpoints", name, key)} aria-current={part === key ? "page" : undefined}>
                {title}
              </Link>
            ))}
          </nav>
          {part === "" && (
            <>
              {endpoint.rollout && <RolloutCard endpoint={endpoint} />}
              <Traffic endpoint={endpoint} below={below ?? []} />
              <Charts endpoint={name} names={below?.map(({ name }) => name ?? "") ?? []} />
              <Below endpoint={name} below={below} shares={endpoint.traffic} />
            </>
          )}
          {part === "console" && <Console endpoint={endpoint} below={below ?? []} />}
          {part === "keys" && <Keys endpoint={endpoint} />}
        </>
      )}
      <Confirm
        title={`Delete ${name}`}
        verb="Delete"
        open={deleting}
        close={() => remove(false)}
        act={async () => {
          await answer(api.DELETE("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}", { params: { path: { workspace, endpoint: name } } }));
          for (const kind of ["endpoints", "deployments", "operations"]) void queries.invalidateQueries({ queryKey: [kind] });
          go(at("endpoints"));
        }}
      >
        <p>The endpoint goes with its keys and its {below?.length ?? 0} deployments, each after the requests that it has are finished. Callers get 404.</p>
      </Confirm>
    </Page>
  );
}

function Below({ endpoint, below, shares }: { endpoint: string; below: Deployment[] | undefined; shares: Record<string, number> }) {
  const { at } = useSession();
  return (
    <Card title="Deployments" flush>
      {!below ? <Waiting /> : (
        <Table<Deployment>
          label="deployments"
          rows={below}
          rowKey={({ name }) => name ?? ""}
          href={({ name }) => at("deployments", endpoint, name ?? "")}
          empty={<Empty action={<Link className="button primary" href={at("models")}>Choose a model to deploy</Link>}>It has no deployment yet.</Empty>}
          columns={[
            { title: "Name", cell: ({ name }) => name, width: "minmax(3.5rem, 1fr)" },
            { title: "State", cell: ({ provisioning_state }) => <State state={provisioning_state} />, width: "minmax(6.6rem, 1fr)" },
            { title: "Traffic", cell: ({ name }) => `${shares[name ?? ""] ?? 0} %`, right: true, width: "4.5rem" },
            { title: "Replicas", cell: replicasReady, right: true, width: "5rem" },
            { title: "Model", cell: ({ model }) => <Tag>{model?.replace(/^azureml:/, "") ?? "–"}</Tag>, wide: true, width: "minmax(0, 1.5fr)" },
            { title: "Compute", cell: ({ compute_name }) => compute_name, wide: true },
          ]}
        />
      )}
    </Card>
  );
}
