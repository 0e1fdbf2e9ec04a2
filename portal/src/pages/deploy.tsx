import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useEffect, useState } from "react";
import { useLocation } from "wouter";
import { answer, api, Refusal } from "../api/client";
import { computes, deployments, endpoints } from "../api/queries";
import { useSession } from "../api/session";
import { Button, Dialog, Field, Trouble } from "../ui/parts";

const NAMES = ["blue", "green"];

/** A model under an endpoint, new or there already. What needs a scoring script or more settings has a document. */
export function Deploy({ open, close, model, suggestion }: { open: boolean; close: () => void; model: string; suggestion: string }) {
  const { workspace, at } = useSession();
  const queries = useQueryClient();
  const [, go] = useLocation();
  const known = useQuery(endpoints(workspace)).data;
  const below = useQuery(deployments(workspace)).data;
  const places = useQuery(computes(workspace)).data;
  const [endpoint, setEndpoint] = useState("");
  const [name, setName] = useState("");
  const [count, setCount] = useState(1);
  const [compute, setCompute] = useState("local");
  const [all, setAll] = useState<boolean>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();

  useEffect(() => {
    if (!open) return;
    setError(undefined);
    setEndpoint(fitting(suggestion));
  }, [open, suggestion]);
  const there = below?.filter(({ endpoint_name }) => endpoint_name?.toLowerCase() === endpoint.toLowerCase()) ?? [];
  const fresh = !known?.some((one) => one.name.toLowerCase() === endpoint.toLowerCase());
  const free = NAMES.find((name) => !there.some((one) => one.name === name)) ?? `v${there.length + 1}`;
  const first = there.length === 0;
  const takesAll = all ?? first;
  const named = name || free;

  const deploy = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      if (fresh) {
        await answer(
          api.PUT("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}", {
            params: { path: { workspace, endpoint }, header: { "if-none-match": "*" } },
            body: {},
          }),
        ).catch((error: unknown) => {
          // Somebody else made it meanwhile: so much the better.
          if (!(error instanceof Refusal && error.status === 409)) throw error;
        });
      }
      await answer(
        api.PUT("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}", {
          params: {
            path: { workspace, endpoint, deployment: named },
            query: { all_traffic: takesAll, compute: compute === "local" ? undefined : compute },
            header: { "if-none-match": "*" },
          },
          body: { model, instance_count: count },
        }),
      );
      for (const kind of ["endpoints", "endpoint", "deployments", "operations"]) void queries.invalidateQueries({ queryKey: [kind] });
      close();
      go(at("deployments", endpoint, named));
    } catch (error) {
      setError(error);
    } finally {
      setBusy(false);
    }
  };

  return (
    <Dialog title={`Deploy ${model.replace(/^azureml:/, "")}`} open={open} close={close}>
      <form onSubmit={(event) => void deploy(event)}>
        <Field label="Endpoint" hint={fresh ? "It is made along with the deployment." : `It has ${there.map(({ name }) => name).join(", ") || "no deployment yet"}.`}>
          {(id) => (
            <>
              <input id={id} list={`${id}-known`} required minLength={3} maxLength={32} pattern="[A-Za-z][A-Za-z0-9\-]*[A-Za-z0-9]" autoComplete="off" spellCheck={false} value={endpoint} onChange={(event) => setEndpoint(event.target.value)} />
              <datalist id={`${id}-known`}>{known?.map(({ name }) => <option key={name} value={name} />)}</datalist>
            </>
          )}
        </Field>
        <Field label="Deployment">
          {(id) => <input id={id} required maxLength={64} pattern="[A-Za-z0-9][A-Za-z0-9._\-]*" autoComplete="off" spellCheck={false} value={named} onChange={(event) => setName(event.target.value)} />}
        </Field>
        <div className="fields">
          <Field label="Instances">
            {(id) => <input id={id} type="number" min={1} max={500} required value={count} onChange={(event) => setCount(Number(event.target.value))} />}
          </Field>
          <Field label="Compute">
            {(id) => (
              <select id={id} value={compute} onChange={(event) => setCompute(event.target.value)}>
                {(places ?? [{ name: "local", type: "local" }]).map(({ name, type }) => (
                  <option key={name} value={name}>{name === type ? name : `${name} (${type})`}</option>
                ))}
              </select>
            )}
          </Field>
        </div>
        <label className="check">
          <input type="checkbox" checked={takesAll} onChange={(event) => setAll(event.target.checked)} />
          All of the endpoint's traffic, once it is ready
        </label>
        <p className="hint">
          A model with a scoring script is deployed by a document: <code>moorline online-deployment create -f deployment.yml</code>
        </p>
        {error !== undefined && <Trouble error={error} />}
        <div className="dialog-foot">
          <Button onClick={close}>Cancel</Button>
          <Button look="primary" type="submit" busy={busy}>Deploy</Button>
        </div>
      </form>
    </Dialog>
  );
}

/** What a model's name becomes as that of an endpoint. */
function fitting(name: string): string {
  const cleaned = name.replace(/[^A-Za-z0-9-]+/g, "-").replace(/^[^A-Za-z]+/, "").slice(0, 32).replace(/-+$/, "");
  return cleaned.length >= 3 ? cleaned : `${cleaned}-endpoint`.replace(/^-/, "");
}
