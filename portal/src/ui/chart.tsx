// Lines over time. The newest values stand beside the names, so that nobody has to read them off the picture.

import { useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { inUnit } from "../lib/format";

export interface Line {
  name: string;
  unit: string;
  /** Unix seconds and values; `null` is a gap. */
  points: [number, number | null][];
}

interface ChartProps {
  title: string;
  lines: Line[];
  from: number;
  to: number;
  height?: number;
}

const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

export function Chart({ title, lines, from, to, height = 150 }: ChartProps) {
  const frame = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const unit = lines[0]?.unit ?? "";
  const names = lines.map(({ name }) => name).join("\u0000");

  useEffect(() => {
    const own = frame.current;
    if (!own) return;
    const make = () => {
      plot.current?.destroy();
      const style = getComputedStyle(own);
      const colour = (name: string) => style.getPropertyValue(name).trim();
      const axis = {
        stroke: colour("--text-faint"),
        grid: { stroke: colour("--border"), width: 1 },
        ticks: { show: false },
        font: "11px system-ui, sans-serif",
      };
      plot.current = new uPlot(
        {
          width: Math.max(own.clientWidth, 120),
          height,
          padding: [8, 4, 0, 0],
          legend: { show: false },
          cursor: { points: { size: 5 }, drag: { x: false, y: false } },
          scales: { x: { time: true }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
          axes: [
            { ...axis, size: 24, space: 64, values: (_, ticks) => ticks.map((tick) => clock(tick, to - from)) },
            { ...axis, size: 62, space: 34, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? "0" : inUnit(tick, unit))) },
          ],
          series: [
            {},
            ...lines.map(({ name }, index) => ({
              label: name,
              stroke: colour(COLOURS[index % COLOURS.length]!),
              width: 1.6,
              spanGaps: false,
              points: { show: false },
            })),
          ],
        },
        joined(lines),
        own,
      );
      plot.current.setScale("x", { min: from, max: to });
    };
    make();
    const sized = new ResizeObserver(() => plot.current?.setSize({ width: Math.max(own.clientWidth, 120), height }));
    sized.observe(own);
    // The colours are those of the page, which may become dark.
    const themed = new MutationObserver(make);
    themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", make);
    return () => {
      sized.disconnect();
      themed.disconnect();
      dark.removeEventListener("change", make);
      plot.current?.destroy();
      plot.current = undefined;
    };
    // The numbers of the axes depend on the window, and on nothing else that changes.
  }, [names, unit, height, to - from]);

  useEffect(() => {
    plot.current?.setData(joined(lines), false);
    plot.current?.setScale("x", { min: from, max: to });
  }, [lines, from, to]);

  const newest = lines.map(({ name, points, unit }) => {
    const last = points.findLast(([, value]) => value !== null)?.[1];
    return { name, value: last === undefined || last === null ? "–" : inUnit(last, unit) };
  });
  return (
    <figure className="chart" data-chart={title}>
      <figcaption>
        <span className="chart-title">{title}</span>
        {newest.map(({ name, value }, index) => (
          <span key={name} className={`legend line-${(index % COLOURS.length) + 1}`}>
            <span className="swatch" aria-hidden="true" />
            {name} <strong>{value}</strong>
          </span>
        ))}
      </figcaption>
      <div
        ref={frame}
        className="plot"
        role="img"
        aria-label={`${title}; newest: ${newest.map(({ name, value }) => `${name} ${value}`).join(", ") || "nothing measured yet"}`}
      />
    </figure>
  );
}

/** A tick of the time axis: the hour, or the day where the window is of days. */
function clock(seconds: number, window: number): string {
  const date = new Date(seconds * 1000);
  if (window > 2 * 86_400) return date.toLocaleDateString(undefined, { day: "numeric", month: "short" });
  return date.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

/** One list of times for all lines, as uPlot wants them. */
function joined(lines: Line[]): uPlot.AlignedData {
  const times = [...new Set(lines.flatMap(({ points }) => points.map(([time]) => time)))].sort((a, b) => a - b);
  const values = lines.map(({ points }) => {
    const known = new Map(points);
    return times.map((time) => known.get(time) ?? null);
  });
  return [times, ...values] as uPlot.AlignedData;
}
