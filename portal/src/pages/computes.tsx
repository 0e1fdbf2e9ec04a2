import { useQuery } from "@tanstack/react-query";
import { type Compute, computes, deployments } from "../api/queries";
import { useSession } from "../api/session";
import { Card, Empty, Page, State, Tag, Trouble, Waiting } from "../ui/parts";
import { Table } from "../ui/table";
import { findings } from "./compute";

export function Computes() {
  const { workspace, at } = useSession();
  const all = useQuery(computes(workspace));
  const below = useQuery(deployments(workspace)).data;
  const found = useQuery(findings());
  return (
    <Page title="Computes" about="Places where deployments run">
      {all.isPending ? <Waiting /> : all.isError ? <Trouble error={all.error} /> : (
        <Table<Compute>
          label="computes"
          noun="compute"
          rows={all.data}
          rowKey={({ name }) => name}
          href={({ name }) => at("computes", name)}
          text={({ name, type, description }) => `${name} ${type} ${description ?? ""}`}
          empty={<Empty>There is none.</Empty>}
          columns={[
            { title: "Name", cell: ({ name }) => name },
            { title: "Type", cell: ({ type }) => <Tag>{type}</Tag>, width: "minmax(5.5rem, .7fr)" },
            { title: "Deployments", cell: ({ name }) => below?.filter(({ compute_name }) => compute_name === name).length ?? "–", right: true, width: "6.5rem" },
            { title: "What it is", cell: (compute) => <span className="cut faint">{compute.description ?? place(compute)}</span>, wide: true, width: "minmax(0, 2.5fr)" },
          ]}
        />
      )}
      <Card title="What was found on the server's machine" flush>
        {found.isPending ? <Waiting what="Looking" /> : found.isError ? <Trouble error={found.error} /> : (
          <ul className="lines">
            {found.data.map(({ kind, name, state, detail }) => (
              <li key={`${kind}/${name}`}>
                <span className="share-name">{name}</span>
                {state === "-" ? <Tag>{kind}</Tag> : <State state={state} />}
                <span className="faint grow">{detail}</span>
              </li>
            ))}
          </ul>
        )}
      </Card>
    </Page>
  );
}

/** Where it is, in the words of its kind. */
export function place(compute: Compute): string {
  const of = compute as unknown as Record<string, unknown>;
  const words = ["host", "context", "namespace", "compute", "bitstream"].map((key) => of[key]).filter((value) => typeof value === "string");
  return words.join(" · ");
}
