// The server's API, by the types of its own OpenAPI document (`npm run types` writes schema.d.ts).

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";
import { token } from "./token";

export type Schemas = components["schemas"];
export type Problem = Schemas["Problem"];

/** Why there is no answer: what the server said, or that nothing did. */
export class Refusal extends Error {
  constructor(
    message: string,
    /** 0 where no server answered. */
    readonly status: number,
    readonly problem?: Problem,
  ) {
    super(message);
    this.name = "Refusal";
  }

  /** What to do about it, where the server knows. */
  get hint(): string | undefined {
    return this.problem?.hint ?? undefined;
  }
}

/** Fetches with the token of this tab. */
export async function send(input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(input instanceof Request ? input.headers : undefined);
  new Headers(init.headers).forEach((value, name) => headers.set(name, value));
  const held = token();
  if (held !== undefined && !headers.has("authorization")) headers.set("authorization", `Bearer ${held}`);
  try {
    return await fetch(input, { ...init, headers, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted || (input instanceof Request && input.signal.aborted)) throw error;
    throw new Refusal("the server does not answer", 0);
  }
}

export const api = createClient<paths>({ baseUrl: location.origin, fetch: (request) => send(request) });

/** What the server said, or the reason that it gave. */
export async function answer<T>(asked: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  const { data, error, response } = await asked;
  if (response.ok) return data as T;
  throw refusal(response.status, error);
}

export function refusal(status: number, error: unknown): Refusal {
  const problem = typeof error === "object" && error !== null ? (error as Problem) : undefined;
  const detail = problem?.detail ?? problem?.title;
  return new Refusal(detail ?? `the server answered ${status}`, status, problem);
}

/** The same for a plain fetch. */
export async function refused(response: Response): Promise<Refusal> {
  const body: unknown = await response.json().catch(() => undefined);
  return refusal(response.status, body);
}

/** Every page of a list. */
export async function all<T>(page: (after: string | undefined) => Promise<{ value: T[]; next?: string | null }>): Promise<T[]> {
  const found: T[] = [];
  let after: string | undefined;
  do {
    const { value, next } = await page(after);
    found.push(...value);
    after = next ?? undefined;
  } while (after !== undefined && found.length < MOST);
  return found;
}

/** Entries of a list that are looked at; what is beyond is found by its name. */
const MOST = 10_000;
