import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { answer, api, Refusal } from "../api/client";
import type { Deployment, Endpoint } from "../api/queries";
import { useSession } from "../api/session";
import { move, same, type Shares, text } from "../lib/shares";
import { Button, Card, Empty, State, Trouble } from "../ui/parts";
import { colour } from "../ui/split";
import { useSay } from "../ui/toast";
import { RolloutBegin } from "./rollout";

/** The split of an endpoint's traffic, to see and to move. */
export function Traffic({ endpoint, below }: { endpoint: Endpoint; below: Deployment[] }) {
  const { workspace, may } = useSession();
  const queries = useQueryClient();
  const say = useSay();
  const [draft, setDraft] = useState<Shares>();
  const [mirror, setMirror] = useState<Shares>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const [rolling, roll] = useState(false);
  const names = below.map(({ name }) => name ?? "");
  const now: Shares = Object.fromEntries(names.map((name) => [name, endpoint.traffic[name] ?? 0]));
  const mirrored: Shares = Object.fromEntries(names.map((name) => [name, endpoint.mirror_traffic[name] ?? 0]));
  const shown = draft ?? now;
  const shownMirror = mirror ?? mirrored;
  const changed = !same(shown, now) || !same(shownMirror, mirrored);
  const underway = endpoint.rollout?.state === "Running";
  const free = may("write") && !underway;

  useEffect(() => {
    // What was asked for has become true.
    if (draft && same(draft, now)) setDraft(undefined);
    if (mirror && same(mirror, mirrored)) setMirror(undefined);
  }, [endpoint.generation]);

  const apply = async (traffic: Shares, mirror_traffic: Shares, generation: number | undefined) => {
    const before = { traffic: now, mirror: mirrored };
    // One deployment alone can be named there, so that the one before has to be taken away.
    const patch = Object.fromEntries(Object.entries(mirror_traffic).map(([name, share]) => [name, share > 0 ? share : null]));
    setBusy(true);
    setError(undefined);
    try {
      const changed = await answer(
        api.PATCH("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}", {
          params: {
            path: { workspace, endpoint: endpoint.name },
            header: generation === undefined ? {} : { "if-match": `"${generation}"` },
          },
          body: { traffic, mirror_traffic: patch as Shares },
        }),
      );
      queries.setQueryData(["endpoint", workspace, endpoint.name], changed);
      void queries.invalidateQueries({ queryKey: ["endpoints"] });
      setDraft(undefined);
      setMirror(undefined);
      say(`Traffic: ${text(changed.traffic)}`, {
        undo: () => void apply(before.traffic, before.mirror, undefined),
      });
    } catch (error) {
      void queries.invalidateQueries({ queryKey: ["endpoint"] });
      setError(error instanceof Refusal && error.status === 409 ? new Error(`${error.message}; look at the split as it is now, and move it again`) : error);
    } finally {
      setBusy(false);
    }
  };

  return (
    <Card
      title="Traffic"
      actions={
        free && names.length > 1 && <Button onClick={() => roll(true)}>Roll out in steps…</Button>
      }
    >
      {names.length === 0 ? <Empty>Without a deployment there is nobody to give it to.</Empty> : (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void apply(shown, shownMirror, endpoint.generation);
          }}
        >
          <div className="split-bar tall" aria-hidden="true">
            {names.map((name, index) => (
              <span key={name} className="split-part" style={{ flexGrow: shown[name], background: colour(index) }} />
            ))}
          </div>
          <ul className="shares">
            {below.map(({ name: given, provisioning_state }, index) => {
              const name = given ?? "";
              return (
                <li key={name}>
                  <span className="share-name">
                    <span className="swatch" style={{ background: colour(index) }} aria-hidden="true" /> {name}
                    {provisioning_state !== "Succeeded" && <State state={provisioning_state} />}
                  </span>
                  <input
                    type="range"
                    min={0}
                    max={100}
                    step={1}
                    value={shown[name]}
                    disabled={!free || names.length === 1}
                    aria-label={`Traffic of ${name} in percent`}
                    aria-valuetext={`${shown[name]} percent`}
                    onChange={(event) => setDraft(move(shown, name, Number(event.target.value)))}
                  />
                  <output className="share-number">{shown[name]} %</output>
                  {free && (
                    <Button look="quiet" disabled={shown[name] === 100} onClick={() => setDraft(Object.fromEntries(names.map((one) => [one, one === name ? 100 : 0])))}>
                      All
                    </Button>
                  )}
                </li>
              );
            })}
          </ul>
          {names.length > 1 && (
            <div className="mirror">
              <label>
                Copies of requests go to{" "}
                <select
                  value={names.find((name) => (shownMirror[name] ?? 0) > 0) ?? ""}
                  disabled={!free}
                  onChange={(event) => setMirror(Object.fromEntries(names.map((name) => [name, name === event.target.value ? 10 : 0])))}
                >
                  <option value="">nobody</option>
                  {names.map((name) => <option key={name}>{name}</option>)}
                </select>
              </label>
              {names.filter((name) => (shownMirror[name] ?? 0) > 0).map((name) => (
                <label key={name}>
                  of{" "}
                  <input type="number" min={1} max={50} value={shownMirror[name]} disabled={!free} aria-label="Mirrored percent" onChange={(event) => setMirror({ ...shownMirror, [name]: Number(event.target.value) })} />{" "}
                  %
                </label>
              ))}
              <span className="faint">Their answers are not waited for.</span>
            </div>
          )}
          {error !== undefined && <Trouble error={error} />}
          {changed && (
            <div className="apply">
              <span>{text(now)} → <strong>{text(shown)}</strong></span>
              <Button onClick={() => { setDraft(undefined); setMirror(undefined); setError(undefined); }}>Leave it</Button>
              <Button look="primary" type="submit" busy={busy}>Apply</Button>
            </div>
          )}
        </form>
      )}
      <RolloutBegin endpoint={endpoint} below={below} open={rolling} close={() => roll(false)} />
    </Card>
  );
}
