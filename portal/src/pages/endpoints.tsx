import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { useLocation } from "wouter";
import { answer, api } from "../api/client";
import { deployments, type Endpoint, endpoints } from "../api/queries";
import { useSession } from "../api/session";
import { Button, Dialog, Empty, Field, Page, State, Tag, Trouble, Waiting, When } from "../ui/parts";
import { Split } from "../ui/split";
import { Table } from "../ui/table";

export function Endpoints() {
  const { workspace, at, may } = useSession();
  const all = useQuery(endpoints(workspace));
  const below = useQuery(deployments(workspace)).data;
  const [creating, create] = useState(false);
  const action = may("write") && <Button look="primary" icon="plus" onClick={() => create(true)}>New endpoint</Button>;
  return (
    <Page title="Endpoints" about="Stable names that split traffic over deployments" actions={action}>
      {all.isPending ? <Waiting /> : all.isError ? <Trouble error={all.error} /> : (
        <Table<Endpoint>
          label="endpoints"
          noun="endpoint"
          rows={all.data}
          rowKey={({ name }) => name}
          href={({ name }) => at("endpoints", name)}
          text={({ name, description, tags }) => `${name} ${description ?? ""} ${Object.entries(tags).flat().join(" ")}`}
          empty={<Empty action={action}>There is no endpoint yet.</Empty>}
          columns={[
            { title: "Name", cell: ({ name }) => name, width: "minmax(7rem, 1.2fr)" },
            { title: "Traffic", cell: ({ traffic }) => <Split shares={traffic} />, width: "minmax(8rem, 2fr)" },
            { title: "State", cell: ({ provisioning_state, rollout }) => rollout?.state === "Running" ? <Tag tone="busy">rolling out</Tag> : <State state={provisioning_state} />, wide: true },
            {
              title: "Deployments",
              cell: ({ name }) => below?.filter(({ endpoint_name }) => endpoint_name === name).length ?? "–",
              wide: true,
              right: true,
              width: "6rem",
            },
            { title: "Keys", cell: ({ auth_mode }) => <span className="faint">{auth_mode}</span>, wide: true, width: "6rem" },
            { title: "Changed", cell: ({ creation_context }) => <When time={creation_context.last_modified_at} />, wide: true },
          ]}
        />
      )}
      <Create open={creating} close={() => create(false)} />
    </Page>
  );
}

function Create({ open, close }: { open: boolean; close: () => void }) {
  const { workspace, at } = useSession();
  const queries = useQueryClient();
  const [, go] = useLocation();
  const [name, setName] = useState("");
  const [mode, setMode] = useState<"key" | "aml_token">("key");
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const create = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await answer(
        api.PUT("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}", {
          params: { path: { workspace, endpoint: name }, header: { "if-none-match": "*" } },
          body: { auth_mode: mode },
        }),
      );
      void queries.invalidateQueries({ queryKey: ["endpoints"] });
      close();
      go(at("endpoints", name));
    } catch (error) {
      setError(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title="New endpoint" open={open} close={close}>
      <form onSubmit={(event) => void create(event)}>
        <Field label="Name" hint="3 to 32 letters, digits and -, unique on this server">
          {(id) => <input id={id} required minLength={3} maxLength={32} pattern="[A-Za-z][A-Za-z0-9\-]*[A-Za-z0-9]" autoComplete="off" spellCheck={false} value={name} onChange={(event) => setName(event.target.value)} />}
        </Field>
        <Field label="Callers show">
          {(id) => (
            <select id={id} value={mode} onChange={(event) => setMode(event.target.value === "key" ? "key" : "aml_token")}>
              <option value="key">one of two keys</option>
              <option value="aml_token">a token that is good for an hour</option>
            </select>
          )}
        </Field>
        {error !== undefined && <Trouble error={error} />}
        <div className="dialog-foot">
          <Button onClick={close}>Cancel</Button>
          <Button look="primary" type="submit" busy={busy}>Create</Button>
        </div>
      </form>
    </Dialog>
  );
}
