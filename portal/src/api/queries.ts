// The questions that pages ask. The first part of each key is what live.ts asks for anew.

import { keepPreviousData, queryOptions } from "@tanstack/react-query";
import { all, answer, api, Refusal, type Schemas } from "./client";

export type Deployment = Schemas["DeploymentShown"];
export type Endpoint = Schemas["EndpointShown"];
export type ModelVersion = Schemas["ModelVersion"];
export type Compute = Schemas["ComputeShown"];
export type Device = Schemas["DeviceShown"];
export type Image = Schemas["ImageShown"];
export type Operation = Schemas["OperationShown"];
export type Me = Schemas["CallerShown"];

export const me = () =>
  queryOptions({
    queryKey: ["me"],
    queryFn: () => answer(api.GET("/api/v1/caller")),
    retry: false,
    staleTime: 60_000,
    refetchInterval: whileAway,
  });

export const about = () =>
  queryOptions({ queryKey: ["about"], queryFn: () => answer(api.GET("/api/v1")), staleTime: 60_000, refetchInterval: whileAway });

/** Where a page cannot begin because no server answers, it is asked again and again. */
function whileAway({ state }: { state: { error: unknown; data: unknown } }): number | false {
  return state.data === undefined && state.error instanceof Refusal && state.error.status === 0 ? 2_000 : false;
}

export const workspaces = () =>
  queryOptions({
    queryKey: ["workspaces"],
    queryFn: () => all((after) => answer(api.GET("/api/v1/workspaces", { params: { query: { after } } }))),
  });

const W = "/api/v1/workspaces/{workspace}";

export const models = (workspace: string) =>
  queryOptions({
    queryKey: ["models", workspace],
    queryFn: () => all((after) => answer(api.GET(`${W}/models`, { params: { path: { workspace }, query: { after } } }))),
  });

export const versions = (workspace: string, name: string) =>
  queryOptions({
    queryKey: ["model", workspace, name],
    queryFn: () =>
      all((after) =>
        answer(api.GET(`${W}/models/{name}`, { params: { path: { workspace, name }, query: { after, include_archived: true } } })),
      ),
  });

export const version = (workspace: string, name: string, version: string) =>
  queryOptions({
    queryKey: ["model", workspace, name, version],
    queryFn: () => answer(api.GET(`${W}/models/{name}/versions/{version}`, { params: { path: { workspace, name, version } } })),
  });

export const signature = (workspace: string, name: string, version: string) =>
  queryOptions({
    queryKey: ["signature", workspace, name, version],
    queryFn: () =>
      answer(api.GET(`${W}/models/{name}/versions/{version}/signature`, { params: { path: { workspace, name, version } } })),
    // A version never changes.
    staleTime: Infinity,
    retry: false,
  });

export const endpoints = (workspace: string) =>
  queryOptions({
    queryKey: ["endpoints", workspace],
    queryFn: () => all((after) => answer(api.GET(`${W}/online-endpoints`, { params: { path: { workspace }, query: { after } } }))),
  });

export const endpoint = (workspace: string, endpoint: string) =>
  queryOptions({
    queryKey: ["endpoint", workspace, endpoint],
    queryFn: () => answer(api.GET(`${W}/online-endpoints/{endpoint}`, { params: { path: { workspace, endpoint } } })),
  });

/** Of all endpoints. */
export const deployments = (workspace: string) =>
  queryOptions({
    queryKey: ["deployments", workspace],
    // Replicas come and go without anybody changing anything.
    refetchInterval: 15_000,
    queryFn: () => all((after) => answer(api.GET(`${W}/deployments`, { params: { path: { workspace }, query: { after } } }))),
  });

export const deployment = (workspace: string, endpoint: string, deployment: string) =>
  queryOptions({
    queryKey: ["deployment", workspace, endpoint, deployment],
    refetchInterval: 5_000,
    queryFn: () =>
      answer(
        api.GET(`${W}/online-endpoints/{endpoint}/deployments/{deployment}`, { params: { path: { workspace, endpoint, deployment } } }),
      ),
  });

export const operations = (workspace: string, subject?: string) =>
  queryOptions({
    queryKey: ["operations", workspace, subject ?? ""],
    queryFn: () =>
      answer(api.GET(`${W}/operations`, { params: { path: { workspace }, query: { subject, limit: 50 } } })).then(({ value }) => value),
  });

export const operation = (workspace: string, id: string) =>
  queryOptions({
    queryKey: ["operation", workspace, id],
    queryFn: () => answer(api.GET(`${W}/operations/{id}`, { params: { path: { workspace, id } } })),
  });

export const computes = (workspace: string) =>
  queryOptions({
    queryKey: ["computes", workspace],
    queryFn: () => all((after) => answer(api.GET(`${W}/computes`, { params: { path: { workspace }, query: { after } } }))),
  });

export const compute = (workspace: string, name: string) =>
  queryOptions({
    queryKey: ["compute", workspace, name],
    queryFn: () => answer(api.GET(`${W}/computes/{name}`, { params: { path: { workspace, name } } })),
  });

export const devices = (workspace: string) =>
  queryOptions({
    queryKey: ["devices", workspace],
    queryFn: () => all((after) => answer(api.GET(`${W}/devices`, { params: { path: { workspace }, query: { after } } }))),
    retry: false,
  });

export const device = (workspace: string, name: string) =>
  queryOptions({
    queryKey: ["device", workspace, name],
    queryFn: () => answer(api.GET(`${W}/devices/{name}`, { params: { path: { workspace, name } } })),
  });

export const twin = (workspace: string, name: string, module?: string) =>
  queryOptions({
    queryKey: ["twin", workspace, name, module ?? ""],
    queryFn: () => answer(api.GET(`${W}/devices/{name}/twin`, { params: { path: { workspace, name }, query: { module } } })),
  });

export const images = (workspace: string) =>
  queryOptions({
    queryKey: ["images", workspace],
    queryFn: () => all((after) => answer(api.GET(`${W}/images`, { params: { path: { workspace }, query: { after } } }))),
  });

export const image = (workspace: string, image: string) =>
  queryOptions({
    queryKey: ["image", workspace, image],
    queryFn: () => answer(api.GET(`${W}/images/{image}`, { params: { path: { workspace, image } } })),
  });

export type Series = Schemas["SeriesShown"];

/** Windows of the charts, and the step that fits each. */
export const WINDOWS = [
  { label: "15 min", seconds: 900, step: 5 },
  { label: "1 h", seconds: 3600, step: 15 },
  { label: "6 h", seconds: 6 * 3600, step: 60 },
  { label: "24 h", seconds: 24 * 3600, step: 300 },
  { label: "7 d", seconds: 7 * 24 * 3600, step: 1800 },
] as const;

export type Window = (typeof WINDOWS)[number];

/** What is drawn; the monitor has more. */
const DRAWN = "request_rate,error_rate,latency_p50,latency_p90,latency_p99,in_flight,replicas_ready,cpu,memory";

/** What an endpoint did of late. */
export const metrics = (workspace: string, endpoint: string, window: Window, deployment?: string) =>
  queryOptions({
    queryKey: ["metrics", workspace, endpoint, deployment ?? "", window.seconds],
    queryFn: ({ signal }) => {
      const to = Math.floor(Date.now() / 1000);
      const query = { from: to - window.seconds, to, step: window.step, deployment, names: DRAWN };
      return answer(
        api.GET(`${W}/online-endpoints/{endpoint}/metrics`, { params: { path: { workspace, endpoint }, query }, signal }),
      );
    },
    refetchInterval: Math.max(window.step, 5) * 1000,
    placeholderData: keepPreviousData,
  });

/** The newest files of what was collected of a deployment. */
export const collected = (workspace: string, endpoint: string, deployment: string) =>
  queryOptions({
    queryKey: ["collected", workspace, endpoint, deployment],
    queryFn: () =>
      answer(
        api.GET(`${W}/online-endpoints/{endpoint}/deployments/{deployment}/collected`, {
          params: { path: { workspace, endpoint, deployment }, query: { limit: 20 } },
        }),
      ),
    refetchInterval: 30_000,
  });

/** Every version of every model, environment and code that a deployment names: `azureml:iris:1`. */
export function reference(text: string | null | undefined): { name: string; version: string } | undefined {
  const parts = /^azureml:([^:@/]+):([^:@/]+)$/.exec(text ?? "");
  return parts ? { name: parts[1]!, version: parts[2]! } : undefined;
}
