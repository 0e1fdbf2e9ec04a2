// Lists of any length: only the rows that can be seen are in the page.

import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { type ReactNode, useCallback, useEffect, useId, useMemo, useRef, useState } from "react";
import { Link } from "wouter";
import { plural } from "../lib/format";
import { Icon } from "./icon";

export interface Column<T> {
  title: string;
  /** A share of the width, as in CSS grids. */
  width?: string;
  /** Left out on narrow screens. */
  wide?: boolean;
  cell: (row: T) => ReactNode;
  /** For numbers. */
  right?: boolean;
}

interface TableProps<T> {
  label: string;
  rows: T[];
  columns: Column<T>[];
  rowKey: (row: T) => string;
  /** Where a row leads; its first cell is the link. */
  href?: (row: T) => string;
  /** What the filter looks in; no filter without it. */
  text?: (row: T) => string;
  /** What is counted: `model`. */
  noun?: string;
  empty?: ReactNode;
}

const ROW = 44;
/** Below this many everything is in the page: finding in it works then, and so does printing. */
const FEW = 60;

export function Table<T>({ label, rows, columns, rowKey, href, text, noun = "row", empty }: TableProps<T>) {
  const [wanted, want] = useState("");
  const body = useRef<HTMLDivElement>(null);
  const [margin, setMargin] = useState(0);
  const search = useId();
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = useMemo(
    () => (text && words.length > 0 ? rows.filter((row) => words.every((word) => text(row).toLowerCase().includes(word))) : rows),
    [rows, wanted],
  );
  const all = shown.length <= FEW;
  const virtualizer = useWindowVirtualizer({
    count: shown.length,
    estimateSize: () => ROW,
    overscan: 12,
    scrollMargin: margin,
    enabled: !all,
    getItemKey: useCallback((index: number) => rowKey(shown[index]!), [shown]),
  });
  useEffect(() => {
    const measure = () => setMargin(body.current ? body.current.getBoundingClientRect().top + window.scrollY : 0);
    measure();
    window.addEventListener("resize", measure);
    return () => window.removeEventListener("resize", measure);
  }, [rows.length === 0]);

  const line = (row: T, index: number, top?: number) => (
    <div
      key={rowKey(row)}
      role="row"
      aria-rowindex={index + 2}
      className={`row${href ? " leads" : ""}`}
      style={top === undefined ? undefined : { position: "absolute", transform: `translateY(${top}px)` }}
    >
      {columns.map((column, position) => (
        <div key={column.title} role="cell" className={cellClass(column)}>
          {href && position === 0 ? <Link href={href(row)}>{column.cell(row)}</Link> : column.cell(row)}
        </div>
      ))}
    </div>
  );

  return (
    <div className="table-frame">
      {text && rows.length > 0 && (
        <div className="filter">
          <label htmlFor={search}>
            <Icon name="search" />
            <span className="only-heard">Filter {label}</span>
          </label>
          <input
            id={search}
            type="search"
            data-filter
            placeholder="Filter  ( / )"
            value={wanted}
            onChange={(event) => want(event.target.value)}
            onKeyDown={(event) => event.key === "Escape" && want("")}
            autoComplete="off"
            spellCheck={false}
          />
          <span className="faint" role="status">
            {words.length > 0 ? `${shown.length} of ${plural(rows.length, noun)}` : plural(rows.length, noun)}
          </span>
        </div>
      )}
      {rows.length === 0 ? (
        empty
      ) : (
        <div
          role="table"
          aria-label={label}
          aria-rowcount={shown.length + 1}
          className="table"
          style={{
            ["--columns" as string]: columns.map(({ width }) => width ?? "minmax(0, 1fr)").join(" "),
            ["--narrow" as string]: columns.filter(({ wide }) => !wide).map(({ width }) => width ?? "minmax(0, 1fr)").join(" "),
          }}
        >
          <div role="rowgroup">
            <div role="row" aria-rowindex={1} className="row head">
              {columns.map((column) => (
                <div key={column.title} role="columnheader" className={cellClass(column)}>
                  {column.title}
                </div>
              ))}
            </div>
          </div>
          <div role="rowgroup" ref={body} className="rows" style={all ? undefined : { height: virtualizer.getTotalSize() }}>
            {all
              ? shown.map((row, index) => line(row, index))
              : virtualizer.getVirtualItems().map(({ index, start }) => line(shown[index]!, index, start - margin))}
          </div>
        </div>
      )}
      {rows.length > 0 && shown.length === 0 && <p className="empty">Nothing has all of these words.</p>}
    </div>
  );
}

function cellClass<T>({ wide, right }: Column<T>): string {
  return `cell${wide ? " wide" : ""}${right ? " right" : ""}`;
}
