// What changes on the server reaches the pages: one stream of events says what to ask for anew. Where the stream is
// away, everything is asked for every few seconds; where the server is, that is said, and tried again.

import type { QueryClient } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import { events } from "../lib/sse";
import { Refusal, send } from "./client";

export type Connection = "connecting" | "live" | "polling" | "away";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 5_000;
/** How often everything is asked for where there are no events. */
export const POLL = 3_000;
/** Events of one moment become one question. */
const GATHER = 150;
/** A stream says that it lives every 15 seconds; one that is silent for longer is dead. */
const SILENCE = 45_000;

let connection: Connection = "connecting";
const listeners = new Set<() => void>();

function set(next: Connection): void {
  if (next === connection) return;
  connection = next;
  for (const listener of listeners) listener();
}

export function useConnection(): Connection {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => connection,
  );
}

interface Change {
  kind: string;
  name: string;
  endpoint?: string | null;
}

/** Which questions a change is about, by the first part of their key. */
const QUESTIONS: Record<string, string[]> = {
  endpoint: ["endpoints", "endpoint", "deployments"],
  deployment: ["deployments", "deployment", "endpoints", "endpoint", "operations"],
  operation: ["operations", "operation", "deployments", "deployment"],
  model: ["models", "model"],
  environment: ["environments"],
  code: [],
  bitstream: ["bitstreams"],
  compute: ["computes", "compute"],
  device: ["devices", "device", "twin"],
  image: ["images", "image"],
  secret: ["secrets"],
};

/** Questions that no change is about, or that are asked again at a pace of their own. */
const OWN_PACE = new Set(["about", "signature", "packages", "findings", "opencl", "metrics"]);

/** Follows a workspace until the signal is given. */
export async function follow(workspace: string, queries: QueryClient, signal: AbortSignal): Promise<void> {
  let due: ReturnType<typeof setTimeout> | undefined;
  const asked = new Set<string>();
  const flush = () => {
    due = undefined;
    const kinds = new Set(asked);
    asked.clear();
    void queries.invalidateQueries({
      predicate: ({ queryKey }) => {
        const kind = String(queryKey[0]);
        return kinds.has(kind) || (kinds.has("*") && !OWN_PACE.has(kind));
      },
    });
  };
  const ask = (...kinds: string[]) => {
    for (const kind of kinds) asked.add(kind);
    due ??= setTimeout(flush, GATHER);
  };
  signal.addEventListener("abort", () => clearTimeout(due));

  let wait = FIRST_WAIT;
  while (!signal.aborted) {
    try {
      const open = await stream(workspace, signal);
      if (open === undefined) {
        set("polling");
        ask("*");
        await pause(POLL, signal);
        continue;
      }
      // Whatever happened meanwhile was not told.
      ask("*");
      set("live");
      wait = FIRST_WAIT;
      for await (const { event, data } of open) {
        if (event === "reset") ask("*");
        else ask(...questions(data));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status === 401) {
        void queries.invalidateQueries({ queryKey: ["me"] });
      }
      set("away");
    }
    await pause(wait, signal);
    wait = Math.min(wait * 1.6, LONGEST_WAIT);
  }
}

function questions(data: string): string[] {
  try {
    const change = JSON.parse(data) as Change;
    return QUESTIONS[change.kind] ?? ["*"];
  } catch {
    return ["*"];
  }
}

/** The stream of a workspace's events; `undefined` where this server has none. */
async function stream(workspace: string, signal: AbortSignal) {
  const silence = new AbortController();
  const response = await send(`/api/v1/workspaces/${encodeURIComponent(workspace)}/events`, {
    headers: { accept: "text/event-stream" },
    signal: AbortSignal.any([signal, silence.signal]),
  });
  if (response.status === 404 || response.status === 405) {
    // Nobody holds the rest of an answer that nobody reads.
    await response.body?.cancel();
    return undefined;
  }
  if (!response.ok || !response.body) throw new Refusal("no events", response.status);
  return events(watched(response.body, silence));
}

/** Ends a stream that has been silent for too long. */
function watched(body: ReadableStream<Uint8Array>, silence: AbortController): ReadableStream<Uint8Array> {
  let timer = setTimeout(() => silence.abort(), SILENCE);
  const again = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE);
      controller.enqueue(chunk);
    },
    flush: () => clearTimeout(timer),
  });
  return body.pipeThrough(again);
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
