import { useQuery } from "@tanstack/react-query";
import { Refusal } from "../api/client";
import { type Device, devices } from "../api/queries";
import { useSession } from "../api/session";
import { Empty, Page, State, Tag, Trouble, Waiting, When } from "../ui/parts";
import { Table } from "../ui/table";

export function Devices() {
  const { workspace, at } = useSession();
  const all = useQuery(devices(workspace));
  const none = all.error instanceof Refusal && all.error.status === 503;
  return (
    <Page title="Devices" about="Machines at the edge, and what they say of themselves">
      {none ? (
        <Empty>This server has no hub for devices. <code>moorline up --hub 0.0.0.0:8883 --hub-name HOST</code> gives it one.</Empty>
      ) : all.isPending ? <Waiting /> : all.isError ? <Trouble error={all.error} /> : (
        <Table<Device>
          label="devices"
          noun="device"
          rows={all.data}
          rowKey={({ name }) => name}
          href={({ name }) => at("devices", name)}
          text={({ name, tags, connected, disabled }) => `${name} ${connected ? "connected" : "away"} ${disabled ? "disabled" : ""} ${JSON.stringify(tags)}`}
          empty={<Empty><code>moorline edge device create -n NAME</code> registers the first one.</Empty>}
          columns={[
            { title: "Name", cell: ({ name }) => <span className="cut">{name}</span>, width: "minmax(7rem, 1.5fr)" },
            { title: "State", cell: (device) => <DeviceState device={device} />, width: "minmax(6.5rem, .8fr)" },
            { title: "Modules", cell: ({ modules }) => `${Object.values(modules).filter(({ connected }) => connected).length} / ${Object.keys(modules).length}`, right: true, width: "5rem" },
            { title: "Tags", cell: ({ tags }) => <span className="cut">{Object.entries(tags).slice(0, 4).map(([key, value]) => <Tag key={key}>{key}={typeof value === "string" ? value : JSON.stringify(value)}</Tag>)}</span>, wide: true, width: "minmax(0, 2fr)" },
            { title: "Seen", cell: ({ connected, last_connect, last_disconnect }) => connected ? <span>since <When time={last_connect} /></span> : <When time={last_disconnect} />, wide: true },
          ]}
        />
      )}
    </Page>
  );
}

export function DeviceState({ device }: { device: Pick<Device, "connected" | "disabled"> }) {
  if (device.disabled) return <State state="disabled" tone="warn" />;
  return device.connected ? <State state="connected" /> : <State state="away" />;
}
