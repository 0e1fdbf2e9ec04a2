// Operations: what was asked for and takes a while, in lines and as a timeline that follows.

import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { Link } from "wouter";
import { events } from "../lib/sse";
import { seconds } from "../lib/format";
import { send } from "../api/client";
import type { Operation } from "../api/queries";
import { useSession } from "../api/session";
import { State, When } from "./parts";

const KINDS: Record<string, string> = {
  create_deployment: "Deploy",
  update_deployment: "Update",
  delete_deployment: "Delete",
  delete_endpoint: "Delete endpoint",
  build_image: "Build image",
  rollout: "Roll out",
};

export function operationTitle({ kind }: Operation): string {
  return KINDS[kind] ?? kind.replaceAll("_", " ");
}

export function OperationLine({ operation }: { operation: Operation }) {
  const { at } = useSession();
  const [endpoint, deployment] = operation.subject.split("/");
  const href =
    operation.kind === "build_image"
      ? at("images")
      : deployment && operation.kind !== "rollout"
        ? at("deployments", endpoint ?? "", deployment)
        : at("endpoints", endpoint ?? "");
  const gone = operation.kind.startsWith("delete") && operation.state === "Succeeded";
  return (
    <>
      <span className="op">
        {operationTitle(operation)} {gone ? operation.subject : <Link href={href}>{operation.subject}</Link>}
      </span>
      <State state={operation.state} />
      <span className="faint"><When time={operation.finished_at ?? operation.created_at} /></span>
    </>
  );
}

/** An operation that is followed: its phases as they come, and what it says. */
export interface Followed {
  phases: { name: string; at: number }[];
  lines: string[];
  transfer?: { direction: string; done: number; total: number };
  standing?: string;
}

const LINES = 500;

/** Follows an operation while it runs; what it was is told from its beginning. */
export function useFollowed(operation: Operation | undefined): Followed {
  const { workspace } = useSession();
  const queries = useQueryClient();
  const [followed, set] = useState<Followed>({ phases: [], lines: [] });
  const id = operation?.id;
  const running = operation?.state === "Running";
  useEffect(() => {
    set({ phases: [], lines: [] });
    if (!id || !running) return;
    const stop = new AbortController();
    const read = async () => {
      const response = await send(`/api/v1/workspaces/${encodeURIComponent(workspace)}/operations/${id}/events`, { signal: stop.signal });
      if (!response.ok || !response.body) return;
      for await (const { event, data } of events(response.body)) {
        const told = JSON.parse(data) as Record<string, unknown>;
        if (event === "done") break;
        set((now) => {
          switch (event) {
            case "phase":
              return { ...now, phases: [...now.phases, { name: String(told.phase), at: Date.now() }] };
            case "log":
              return { ...now, lines: [...now.lines, String(told.line)].slice(-LINES) };
            case "transfer":
              return { ...now, transfer: told as Followed["transfer"] };
            case "standing":
              return { ...now, standing: String(told.text) };
            default:
              return now;
          }
        });
      }
      for (const kind of ["operations", "deployment", "deployments", "endpoint", "endpoints", "images"]) {
        void queries.invalidateQueries({ queryKey: [kind] });
      }
    };
    read().catch(() => undefined);
    return () => stop.abort();
  }, [id, running, workspace, queries]);
  return followed;
}

const PHASES: Record<string, string> = {
  resolve: "Resolve",
  environment: "Environment",
  image: "Image",
  start: "Start",
  ready: "Ready",
  drain: "Drain",
};

/** The phases of an operation from left to right; the last one is where it is, or where it ended. */
export function Timeline({ operation, followed }: { operation: Operation; followed: Followed }) {
  const known = operation.phases?.map(({ name, at }) => ({ name, at: new Date(at).getTime() })) ?? [];
  const phases = known.length >= followed.phases.length && known.length > 0 ? known : followed.phases;
  const steps = phases.length > 0 ? phases : operation.phase ? [{ name: operation.phase, at: NaN }] : [];
  const end = operation.finished_at ? new Date(operation.finished_at).getTime() : NaN;
  const begun = new Date(operation.created_at).getTime();
  const took = (index: number): string | undefined => {
    const from = steps[index]!.at;
    const to = steps[index + 1]?.at ?? end;
    return Number.isFinite(to - from) ? seconds(Math.max(0, to - from) / 1000) : undefined;
  };
  return (
    <div className="timeline-frame">
      <ol className="timeline" aria-label="Phases">
        {steps.map(({ name }, index) => {
          const last = index === steps.length - 1;
          const look = !last ? "done" : operation.state === "Running" ? "at" : operation.state === "Succeeded" ? "done" : "failed";
          return (
            <li key={`${name}-${index}`} className={look}>
              <span className="dot" aria-hidden="true" />
              <span className="phase">{PHASES[name] ?? name}</span>
              <span className="faint">{took(index) ?? (look === "at" ? "now" : "")}</span>
            </li>
          );
        })}
        {operation.state !== "Running" && (
          <li className={operation.state === "Succeeded" ? "done" : "failed"}>
            <span className="dot" aria-hidden="true" />
            <span className="phase">{operation.state}</span>
            <span className="faint">{Number.isFinite(end) ? `after ${seconds((end - begun) / 1000)}` : ""}</span>
          </li>
        )}
      </ol>
      {followed.standing && <p>{followed.standing}</p>}
      {followed.transfer && (
        <label className="progress-line">
          {followed.transfer.direction}
          <progress value={followed.transfer.done} max={followed.transfer.total || 1} />
        </label>
      )}
    </div>
  );
}
