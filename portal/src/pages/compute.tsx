import { queryOptions, useQuery } from "@tanstack/react-query";
import { Link, useParams } from "wouter";
import { answer, api } from "../api/client";
import { compute as one, deployments } from "../api/queries";
import { useSession } from "../api/session";
import { bytes } from "../lib/format";
import { Card, Code, Empty, Page, State, Tag, Trouble, Waiting } from "../ui/parts";
import { replicasReady } from "./deployments";

export const findings = () =>
  queryOptions({
    queryKey: ["findings"],
    queryFn: () => answer(api.GET("/api/v1/doctor")).then(({ value }) => value),
    // Programs are started for it; nobody installs something every minute.
    staleTime: 5 * 60_000,
    retry: false,
  });

const opencl = (workspace: string, name: string) =>
  queryOptions({
    queryKey: ["opencl", workspace, name],
    queryFn: () => answer(api.GET("/api/v1/workspaces/{workspace}/computes/{name}/devices", { params: { path: { workspace, name } } })).then(({ value }) => value),
    retry: false,
    refetchInterval: 15_000,
  });

export function Compute() {
  const { workspace, at } = useSession();
  const name = decodeURIComponent(useParams<{ name: string }>().name);
  const found = useQuery(one(workspace, name));
  const here = useQuery(deployments(workspace)).data?.filter(({ compute_name }) => compute_name === name);
  const compute = found.data;
  return (
    <Page title={name} crumbs={<Link href={at("computes")}>Computes</Link>} about={compute && <><Tag>{compute.type}</Tag> {compute.description}</>}>
      {found.isError ? <Trouble error={found.error} /> : !compute ? <Waiting /> : (
        <>
          {compute.type === "fpga" && <Devices name={name} />}
          <div className="columns">
            <Card title="Deployments on it" flush>
              {!here ? <Waiting /> : here.length === 0 ? <Empty>None.</Empty> : (
                <ul className="lines">
                  {here.slice(0, 200).map((deployment) => (
                    <li key={`${deployment.endpoint_name}/${deployment.name}`}>
                      <Link href={at("deployments", deployment.endpoint_name ?? "", deployment.name ?? "")}>{deployment.endpoint_name}/{deployment.name}</Link>
                      <State state={deployment.provisioning_state} />
                      <span className="faint">{replicasReady(deployment)} ready</span>
                    </li>
                  ))}
                </ul>
              )}
            </Card>
            <Card title="Settings">
              <Code label="settings as JSON" text={JSON.stringify(compute, null, 2)} />
            </Card>
          </div>
        </>
      )}
    </Page>
  );
}

/** OpenCL devices of the server's machine, and who has them. */
function Devices({ name }: { name: string }) {
  const { workspace } = useSession();
  const found = useQuery(opencl(workspace, name));
  return (
    <Card title="OpenCL devices" flush>
      {found.isPending ? <Waiting what="Looking for devices" /> : found.isError ? <Trouble error={found.error} /> : found.data.length === 0 ? (
        <Empty>No driver shows a device.</Empty>
      ) : (
        <ul className="lines">
          {found.data.map((device) => (
            <li key={`${device.platform}/${device.name}/${device.index}`}>
              <span className="grow"><strong>{device.name}</strong> <span className="faint">{device.platform} #{device.index}</span></span>
              <Tag tone={device.class === "hardware" ? "good" : "calm"}>{device.class}</Tag>
              <span>{bytes(device.memory)}</span>
              {device.quarantine ? <Tag tone="bad">out of use: {device.quarantine}</Tag> : device.holder ? <Tag tone="busy">{device.holder}</Tag> : <Tag tone="good">free</Tag>}
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}
