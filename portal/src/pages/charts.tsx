import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { metrics, type Series, type Window, WINDOWS } from "../api/queries";
import { useSession } from "../api/session";
import { Card, Empty, Trouble, Waiting } from "../ui/parts";
import { Chart, type Line } from "../ui/chart";

interface Panel {
  title: string;
  of: (series: Series) => string | undefined;
}

const of = (metric: string) => (series: Series) => (series.name === metric ? series.deployment : undefined);

/** Of an endpoint: one line for each deployment. */
const FOR_ENDPOINT: Panel[] = [
  { title: "Requests", of: of("request_rate") },
  { title: "Errors", of: of("error_rate") },
  { title: "p99", of: of("latency_p99") },
  { title: "In flight", of: of("in_flight") },
];

/** Of a deployment: everything that is known. */
const FOR_DEPLOYMENT: Panel[] = [
  { title: "Requests", of: (series) => (series.name === "request_rate" ? "requests" : undefined) },
  { title: "Errors", of: (series) => (series.name === "error_rate" ? "errors" : undefined) },
  { title: "Latency", of: ({ name }) => /^latency_(p\d+)$/.exec(name)?.[1] },
  { title: "In flight", of: (series) => (series.name === "in_flight" ? "in flight" : undefined) },
  { title: "Replicas ready", of: (series) => (series.name === "replicas_ready" ? "ready" : undefined) },
  { title: "Processor", of: (series) => (series.name === "cpu" ? "cores" : undefined) },
  { title: "Memory", of: (series) => (series.name === "memory" ? "resident" : undefined) },
];

export function Charts({ endpoint, names, deployment }: { endpoint: string; names: string[]; deployment?: string }) {
  const { workspace } = useSession();
  const [window, choose] = useState<Window>(WINDOWS[0]);
  const measured = useQuery(metrics(workspace, endpoint, window, deployment));
  const panels = useMemo(() => {
    const series = measured.data?.series ?? [];
    const order = (line: Line) => names.indexOf(line.name);
    return (deployment ? FOR_DEPLOYMENT : FOR_ENDPOINT).map(({ title, of }) => {
      const lines = series.flatMap((one): Line[] => {
        const name = of(one);
        if (name === undefined) return [];
        // A share of the requests, which people read as percent.
        const unit = one.name === "error_rate" ? "ratio" : one.unit;
        return [{ name, unit, points: one.points as Line["points"] }];
      });
      return { title, lines: deployment ? lines : lines.toSorted((a, b) => order(a) - order(b)) };
    });
  }, [measured.data, names.join("/"), deployment]);
  return (
    <Card
      title="Metrics"
      actions={
        <div className="segments" role="group" aria-label="Window of time">
          {WINDOWS.map((one) => (
            <button key={one.label} type="button" aria-pressed={one === window} onClick={() => choose(one)}>{one.label}</button>
          ))}
        </div>
      }
    >
      {measured.isPending ? <Waiting /> : measured.isError ? <Trouble error={measured.error} /> : (
        <div className="charts">
          {panels.filter(({ lines }) => lines.length > 0).map(({ title, lines }) => (
            <Chart key={title} title={title} lines={lines} from={measured.data.to - window.seconds} to={measured.data.to} />
          ))}
          {panels.every(({ lines }) => lines.length === 0) && <Empty>Nothing has been measured yet.</Empty>}
        </div>
      )}
    </Card>
  );
}
