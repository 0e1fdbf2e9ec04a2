import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useMemo, useRef, useState } from "react";
import { useLocation } from "wouter";
import { answer, api } from "../api/client";
import { type ModelVersion, models } from "../api/queries";
import { useSession } from "../api/session";
import { type Progress, type Source, store } from "../api/upload";
import { bytes, plural } from "../lib/format";
import { Button, Dialog, Empty, Field, Page, Tag, Trouble, Waiting, When } from "../ui/parts";
import { Table } from "../ui/table";

export function Models() {
  const { workspace, at, may } = useSession();
  const all = useQuery(models(workspace));
  const [registering, register] = useState(false);
  const action = may("write") && <Button look="primary" icon="plus" onClick={() => register(true)}>Register a model</Button>;
  return (
    <Page title="Models" about="Versioned files that never change" actions={action}>
      {all.isPending ? <Waiting /> : all.isError ? <Trouble error={all.error} /> : (
        <Table<ModelVersion>
          label="models"
          noun="model"
          rows={all.data}
          rowKey={({ name }) => name}
          href={({ name }) => at("models", name)}
          text={({ name, description, tags }) => `${name} ${description ?? ""} ${Object.entries(tags ?? {}).flat().join(" ")}`}
          empty={<Empty action={action}>No model is registered yet.</Empty>}
          columns={[
            { title: "Name", cell: ({ name }) => name, width: "minmax(8rem, 2fr)" },
            { title: "Newest", cell: ({ version }) => <span className="mono">{version}</span>, width: "minmax(4rem, .7fr)" },
            { title: "Type", cell: ({ type }) => <Tag>{kind(type)}</Tag>, wide: true },
            { title: "Description", cell: ({ description }) => <span className="cut faint">{description}</span>, wide: true, width: "minmax(0, 2fr)" },
            { title: "Registered", cell: ({ creation_context }) => <When time={creation_context.created_at} />, width: "minmax(6rem, 1fr)" },
          ]}
        />
      )}
      <Register open={registering} close={() => register(false)} />
    </Page>
  );
}

export function kind(type: string): string {
  return type.replace(/_model$/, "");
}

const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]*";

function Register({ open, close }: { open: boolean; close: () => void }) {
  const { workspace, at } = useSession();
  const queries = useQueryClient();
  const [, go] = useLocation();
  const [sources, setSources] = useState<Source[]>([]);
  const [name, setName] = useState("");
  const [description, setDescription] = useState("");
  const [progress, tell] = useState<Progress>();
  const [error, setError] = useState<unknown>();
  const [over, setOver] = useState(false);
  const stop = useRef<AbortController | undefined>(undefined);
  const mlflow = useMemo(() => sources.some(({ path }) => path === "MLmodel"), [sources]);

  const take = (files: File[]) => {
    // A folder comes with its own name before each file; the model is what is in it.
    const taken = files.map((file) => ({ path: file.webkitRelativePath.split("/").slice(1).join("/") || file.name, file }));
    setSources(taken);
    const first = files[0];
    if (first && name === "") {
      const folder = first.webkitRelativePath.split("/")[0];
      setName((folder || first.name.replace(/\.[^.]*$/, "")).replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, ""));
    }
  };
  const leave = () => {
    stop.current?.abort();
    stop.current = undefined;
    tell(undefined);
    setError(undefined);
    setSources([]);
    setName("");
    setDescription("");
    close();
  };
  const register = async (event: FormEvent) => {
    event.preventDefault();
    const own = new AbortController();
    stop.current = own;
    setError(undefined);
    try {
      const files = await store(workspace, sources, tell, own.signal);
      const registered = await answer(
        api.POST("/api/v1/workspaces/{workspace}/models/{name}/versions", {
          params: { path: { workspace, name } },
          body: { files, type: mlflow ? "mlflow_model" : "custom_model", description: description || undefined },
        }),
      );
      await queries.invalidateQueries({ queryKey: ["models"] });
      void queries.invalidateQueries({ queryKey: ["model"] });
      leave();
      go(at("models", registered.name, registered.version));
    } catch (error) {
      if (!own.signal.aborted) setError(error);
      tell(undefined);
    }
  };

  const total = sources.reduce((sum, { file }) => sum + file.size, 0);
  return (
    <Dialog title="Register a model" open={open} close={leave}>
      <form onSubmit={(event) => void register(event)}>
        <div
          className={`drop${over ? " over" : ""}`}
          onDragOver={(event) => {
            event.preventDefault();
            setOver(true);
          }}
          onDragLeave={() => setOver(false)}
          onDrop={(event) => {
            event.preventDefault();
            setOver(false);
            take([...event.dataTransfer.files]);
          }}
        >
          {sources.length === 0 ? (
            <p>Drop files here, or choose</p>
          ) : (
            <p>
              <strong>{plural(sources.length, "file")}</strong>, {bytes(total)}
              {mlflow && <> · <Tag>mlflow</Tag></>}
              <br />
              <span className="faint cut">{sources.slice(0, 4).map(({ path }) => path).join(", ")}{sources.length > 4 && ", …"}</span>
            </p>
          )}
          <div className="actions">
            <label className="button">
              Files
              <input className="only-heard" type="file" multiple data-files onChange={(event) => take([...(event.target.files ?? [])])} />
            </label>
            <label className="button">
              A folder
              <input className="only-heard" type="file" {...{ webkitdirectory: "" }} onChange={(event) => take([...(event.target.files ?? [])])} />
            </label>
          </div>
        </div>
        <Field label="Name" hint="A name that is there already gets its next version.">
          {(id) => (
            <input id={id} required maxLength={255} pattern={NAME} autoComplete="off" spellCheck={false} value={name} onChange={(event) => setName(event.target.value)} />
          )}
        </Field>
        <Field label="Description">
          {(id) => <input id={id} maxLength={1000} value={description} onChange={(event) => setDescription(event.target.value)} />}
        </Field>
        {progress && (
          <label className="progress-line">
            {progress.doing === "reading" ? "Reading" : "Sending"}
            <progress value={progress.done} max={progress.total || 1} />
            <span className="faint">{bytes(progress.done)} of {bytes(progress.total)}</span>
          </label>
        )}
        {error !== undefined && <Trouble error={error} />}
        <div className="dialog-foot">
          <Button onClick={leave}>Cancel</Button>
          <Button look="primary" type="submit" busy={progress !== undefined} disabled={sources.length === 0}>Register</Button>
        </div>
      </form>
    </Dialog>
  );
}
