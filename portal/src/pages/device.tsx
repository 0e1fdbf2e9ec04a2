import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useParams } from "wouter";
import { device as one, twin } from "../api/queries";
import { useSession } from "../api/session";
import { compare, type Standing } from "../lib/twin";
import { Card, Empty, Facts, Page, State, Tag, Trouble, Waiting, When } from "../ui/parts";
import { DeviceState } from "./devices";

export function Device() {
  const { workspace, at } = useSession();
  const name = decodeURIComponent(useParams<{ name: string }>().name);
  const found = useQuery({ ...one(workspace, name), refetchInterval: 10_000 });
  const [module, choose] = useState<string>();
  const device = found.data;
  return (
    <Page title={name} crumbs={<Link href={at("devices")}>Devices</Link>} about={device && <DeviceState device={device} />}>
      {found.isError ? <Trouble error={found.error} /> : !device ? <Waiting /> : (
        <>
          <div className="columns">
            <Card title="Device">
              <Facts
                of={[
                  ["Proves itself by", device.authentication.type === "sas" ? "a key" : device.authentication.type === "selfSigned" ? "a certificate of its own" : "a certificate of this server"],
                  ["Connected", device.connected ? <>since <When time={device.last_connect} /></> : <>last <When time={device.last_disconnect} /></>],
                  ["Tags", Object.keys(device.tags).length > 0 && <span className="tags">{Object.entries(device.tags).map(([key, value]) => <Tag key={key}>{key}={typeof value === "string" ? value : JSON.stringify(value)}</Tag>)}</span>],
                ]}
              />
            </Card>
            <Card title="Modules" flush>
              {Object.keys(device.modules).length === 0 ? <Empty>It has none.</Empty> : (
                <ul className="lines">
                  {Object.entries(device.modules).map(([name, { connected }]) => (
                    <li key={name}>
                      <span className="mono grow">{name}</span>
                      <State state={connected ? "connected" : "away"} tone={connected ? "good" : "calm"} />
                    </li>
                  ))}
                </ul>
              )}
            </Card>
          </div>
          <Twin name={name} modules={Object.keys(device.modules)} module={module} choose={choose} />
        </>
      )}
    </Page>
  );
}

const WORDS: Record<Standing, [string, "good" | "bad" | "warn" | "calm"]> = {
  same: ["as told", "good"],
  differs: ["differs", "bad"],
  missing: ["not reported", "warn"],
  own: ["its own", "calm"],
};

function Twin({ name, modules, module, choose }: { name: string; modules: string[]; module: string | undefined; choose: (module: string | undefined) => void }) {
  const { workspace } = useSession();
  const found = useQuery({ ...twin(workspace, name, module), refetchInterval: 10_000 });
  const properties = found.data?.properties as { desired?: unknown; reported?: unknown } | undefined;
  const lines = compare(properties?.desired, properties?.reported);
  const open = lines.filter(({ standing }) => standing === "differs" || standing === "missing").length;
  return (
    <Card
      title={<>Desired against reported {found.data && lines.length > 0 && <Tag tone={open > 0 ? "warn" : "good"}>{open > 0 ? `${open} open` : "all as told"}</Tag>}</>}
      flush
      actions={
        <label>
          <span className="only-heard">Whose twin</span>
          <select value={module ?? ""} onChange={(event) => choose(event.target.value || undefined)}>
            <option value="">the device</option>
            {modules.map((name) => <option key={name}>{name}</option>)}
          </select>
        </label>
      }
    >
      {found.isError ? <Trouble error={found.error} /> : !found.data ? <Waiting /> : lines.length === 0 ? <Empty>Nothing is desired, and nothing was reported.</Empty> : (
        <div className="scroll-x" tabIndex={0} role="region" aria-label="Properties">
          <table className="small twin">
            <thead>
              <tr><th scope="col">Property</th><th scope="col">Desired</th><th scope="col">Reported</th><th scope="col">Standing</th></tr>
            </thead>
            <tbody>
              {lines.map(({ path, desired, reported, standing }) => (
                <tr key={path} className={standing}>
                  <th scope="row" className="mono">{path}</th>
                  <td className="mono">{value(desired)}</td>
                  <td className="mono">{value(reported)}</td>
                  <td><Tag tone={WORDS[standing][1]}>{WORDS[standing][0]}</Tag></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}

function value(of: unknown): string {
  if (of === undefined) return "–";
  const text = typeof of === "string" ? of : JSON.stringify(of);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}
