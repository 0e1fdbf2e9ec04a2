import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useLocation, useParams } from "wouter";
import { answer, api, refused, type Schemas, send } from "../api/client";
import { deployments, reference, signature, version, versions } from "../api/queries";
import { useSession } from "../api/session";
import { bytes, plural, short } from "../lib/format";
import { Button, Card, Copy, Empty, Facts, Page, State, Tag, Trouble, Waiting, When } from "../ui/parts";
import { Table } from "../ui/table";
import { useSay } from "../ui/toast";
import { Deploy } from "./deploy";
import { kind } from "./models";

/** Files that a browser takes into its memory on the way to the disk. */
const DOWNLOADED = 512 << 20;

export function Model() {
  const { workspace, at, may } = useSession();
  const params = useParams<{ name: string; version?: string }>();
  const name = decodeURIComponent(params.name);
  const wanted = params.version === undefined ? undefined : decodeURIComponent(params.version);
  const all = useQuery(versions(workspace, name));
  const newest = all.data?.find(({ archived }) => !archived) ?? all.data?.[0];
  const chosen = wanted ?? newest?.version;
  const found = useQuery({ ...version(workspace, name, chosen ?? ""), enabled: chosen !== undefined });
  const [, go] = useLocation();
  const [deploying, deploy] = useState(false);
  const queries = useQueryClient();
  const say = useSay();
  const model = found.data;

  const archive = async () => {
    if (!model) return;
    const path = { workspace, name, version: model.version };
    try {
      if (model.archived) await answer(api.POST("/api/v1/workspaces/{workspace}/models/{name}/versions/{version}/restore", { params: { path } }));
      else await answer(api.POST("/api/v1/workspaces/{workspace}/models/{name}/versions/{version}/archive", { params: { path } }));
      say(`Version ${model.version} was ${model.archived ? "restored" : "archived"}`);
    } catch (error) {
      say(error instanceof Error ? error.message : "It could not be done", { bad: true });
    }
    for (const kind of ["model", "models"]) void queries.invalidateQueries({ queryKey: [kind] });
  };

  return (
    <Page
      title={name}
      crumbs={<Link href={at("models")}>Models</Link>}
      about={model && <><Tag>{kind(model.type)}</Tag> {model.description}</>}
      actions={
        model && may("write") && (
          <>
            <Button onClick={() => void archive()}>{model.archived ? "Restore" : "Archive"}</Button>
            <Button look="primary" icon="play" onClick={() => deploy(true)}>Deploy</Button>
          </>
        )
      }
    >
      {all.isError ? <Trouble error={all.error} /> : all.isPending ? <Waiting /> : (
        <>
          <label className="pick">
            Version
            <select value={chosen} onChange={(event) => go(at("models", name, event.target.value))}>
              {all.data.map(({ version, archived }) => (
                <option key={version} value={version}>{version}{archived ? " (archived)" : ""}</option>
              ))}
            </select>
            <span className="faint">of {plural(all.data.length, "version")}</span>
          </label>
          {found.isError ? <Trouble error={found.error} /> : !model ? <Waiting /> : (
            <>
              <div className="columns">
                <Card title="Version">
                  <Facts
                    of={[
                      ["Reference", <span className="mono">{model.id} <Copy text={model.id} label="Copy the reference" /></span>],
                      ["Digest", <span className="mono" title={model.digest}>{short(model.digest)}</span>],
                      ["Stage", model.stage],
                      ["Registered", <When time={model.creation_context.created_at} />],
                      ["State", model.archived ? <Tag tone="warn">archived</Tag> : undefined],
                      ["Tags", tags(model.tags)],
                      ["Properties", tags(model.properties)],
                      ["Flavors", model.flavors && Object.keys(model.flavors).join(", ")],
                    ]}
                  />
                </Card>
                <Signature name={name} version={model.version} />
              </div>
              <Deployed name={name} version={model.version} />
              <Files files={model.files ?? []} />
            </>
          )}
        </>
      )}
      {model && <Deploy open={deploying} close={() => deploy(false)} model={model.id} suggestion={name} />}
    </Page>
  );
}

export function tags(of: Record<string, string> | null | undefined) {
  const entries = Object.entries(of ?? {});
  if (entries.length === 0) return undefined;
  return <span className="tags">{entries.map(([key, value]) => <Tag key={key}>{key}={value}</Tag>)}</span>;
}

function Signature({ name, version }: { name: string; version: string }) {
  const { workspace } = useSession();
  const found = useQuery(signature(workspace, name, version));
  return (
    <Card title="Signature" flush>
      {found.isPending ? <Waiting /> : found.isError || found.data.inputs.length + found.data.outputs.length === 0 ? (
        <Empty>The files of this version do not say what it takes and gives.</Empty>
      ) : (
        <div className="scroll-x" tabIndex={0} role="region" aria-label="Inputs and outputs">
          <table className="small">
            <thead>
              <tr><th scope="col">Name</th><th scope="col">Type</th><th scope="col">Shape</th></tr>
            </thead>
            <Tensors title="Takes" tensors={found.data.inputs} />
            <Tensors title="Gives" tensors={found.data.outputs} />
          </table>
        </div>
      )}
    </Card>
  );
}

function Tensors({ title, tensors }: { title: string; tensors: Schemas["TensorShown"][] }) {
  return (
    <tbody>
      <tr><th scope="rowgroup" colSpan={3} className="group">{title}</th></tr>
      {tensors.map(({ name, datatype, shape, optional }) => (
        <tr key={name}>
          <td className="mono">{name} {optional && <Tag>optional</Tag>}</td>
          <td className="mono">{datatype}</td>
          <td className="mono">{shape ? `[${shape.join(", ")}]` : "any"}</td>
        </tr>
      ))}
    </tbody>
  );
}

function Deployed({ name, version }: { name: string; version: string }) {
  const { workspace, at } = useSession();
  const all = useQuery(deployments(workspace));
  const here = all.data?.filter(({ model }) => {
    const named = reference(model);
    return named?.name.toLowerCase() === name.toLowerCase() && named.version === version;
  });
  return (
    <Card title="Where it is deployed" flush>
      {!here ? <Waiting /> : here.length === 0 ? <Empty>Nowhere.</Empty> : (
        <ul className="lines">
          {here.map(({ endpoint_name, name, provisioning_state, compute_name }) => (
            <li key={`${endpoint_name}/${name}`}>
              <Link href={at("deployments", endpoint_name ?? "", name ?? "")}>{endpoint_name}/{name}</Link>
              <State state={provisioning_state} />
              <span className="faint">on {compute_name}</span>
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

function Files({ files }: { files: Schemas["FileBody"][] }) {
  const { workspace } = useSession();
  const say = useSay();
  const download = async (file: Schemas["FileBody"]) => {
    try {
      const response = await send(`/api/v1/workspaces/${encodeURIComponent(workspace)}/blobs/${file.sha256}`);
      if (!response.ok) throw await refused(response);
      const url = URL.createObjectURL(await response.blob());
      const link = document.createElement("a");
      link.href = url;
      link.download = file.path.split("/").at(-1) ?? "file";
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (error) {
      say(error instanceof Error ? error.message : "It could not be had", { bad: true });
    }
  };
  return (
    <Card title={`Files (${files.length})`} flush>
      <Table
        label="files"
        noun="file"
        rows={files}
        rowKey={({ path }) => path}
        text={files.length > 8 ? ({ path }) => path : undefined}
        columns={[
          { title: "Path", cell: ({ path }) => <span className="mono cut">{path}</span>, width: "minmax(0, 3fr)" },
          { title: "Size", cell: ({ size }) => bytes(size), right: true, width: "6rem" },
          { title: "SHA-256", cell: ({ sha256 }) => <span className="mono faint" title={sha256}>{short(sha256)}</span>, wide: true, width: "9rem" },
          {
            title: "Download",
            cell: (file) => file.size <= DOWNLOADED
              ? <Button look="quiet" icon="download" label={`Download ${file.path}`} onClick={() => void download(file)} />
              : <span className="faint">too large for a browser</span>,
            width: "5.5rem",
            right: true,
          },
        ]}
      />
    </Card>
  );
}
