import { useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { type Deployment, deployments, endpoints } from "../api/queries";
import { useSession } from "../api/session";
import { Empty, Page, State, Trouble, Waiting, When } from "../ui/parts";
import { Table } from "../ui/table";

export function Deployments() {
  const { workspace, at } = useSession();
  const all = useQuery(deployments(workspace));
  const traffic = new Map(useQuery(endpoints(workspace)).data?.map(({ name, traffic }) => [name, traffic]));
  return (
    <Page title="Deployments" about="Releases that run on a compute, under an endpoint">
      {all.isPending ? <Waiting /> : all.isError ? <Trouble error={all.error} /> : (
        <Table<Deployment>
          label="deployments"
          noun="deployment"
          rows={all.data}
          rowKey={({ endpoint_name, name }) => `${endpoint_name}/${name}`}
          href={({ endpoint_name, name }) => at("deployments", endpoint_name ?? "", name ?? "")}
          text={({ endpoint_name, name, model, compute_name, provisioning_state }) => `${endpoint_name}/${name} ${model ?? ""} ${compute_name} ${provisioning_state}`}
          empty={<Empty action={<Link className="button primary" href={at("models")}>Choose a model to deploy</Link>}>Nothing is deployed yet.</Empty>}
          columns={[
            { title: "Deployment", cell: ({ endpoint_name, name }) => <span className="cut">{endpoint_name}/{name}</span>, width: "minmax(8rem, 2fr)" },
            { title: "State", cell: ({ provisioning_state }) => <State state={provisioning_state} />, width: "minmax(6.5rem, 1fr)" },
            { title: "Replicas", cell: replicasReady, right: true, width: "5rem" },
            { title: "Traffic", cell: ({ endpoint_name, name }) => `${traffic.get(endpoint_name ?? "")?.[name ?? ""] ?? 0} %`, right: true, width: "4.5rem", wide: true },
            { title: "Model", cell: ({ model }) => <span className="mono cut">{model?.replace(/^azureml:/, "") ?? "–"}</span>, wide: true, width: "minmax(0, 1.5fr)" },
            { title: "Compute", cell: ({ compute_name }) => compute_name, wide: true },
            { title: "Changed", cell: ({ creation_context }) => <When time={creation_context.last_modified_at} />, wide: true },
          ]}
        />
      )}
    </Page>
  );
}

/** `2 / 3`: those that are ready, of those that there are. */
export function replicasReady({ replicas }: Deployment): string {
  if (!replicas) return "–";
  return `${replicas.filter(({ state }) => state === "ready").length} / ${replicas.length}`;
}
