import type { ReactNode } from "react";

const SHAPES: Record<string, ReactNode> = {
  overview: <path d="M3 3h7v8H3zM14 3h7v5h-7zM14 12h7v9h-7zM3 15h7v6H3z" />,
  models: <path d="M12 2.8 20.5 7v10L12 21.2 3.5 17V7zM3.5 7 12 11.3 20.5 7M12 11.300v9.9" />,
  endpoints: <path d="M4 12h5m0 0 5-6h6M9 12l5 6h6M9 12h11" />,
  deployments: <path d="M4 4h16v6H4zM4 14h16v6H4zM8 7h.01M8 17h.01" />,
  computes: <path d="M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4" />,
  devices: <path d="M5 12.500a10 10 0 0 1 14 0M8 15.500a6 6 0 0 1 8 0M12 19h.01M2.5 9.500a14 14 0 0 1 19 0" />,
  images: <path d="m12 3 9 4.5-9 4.5-9-4.500zM3 12l9 4.5 9-4.500M3 16.5 12 21l9-4.5" />,
  menu: <path d="M4 6h16M4 12h16M4 18h16" />,
  close: <path d="m6 6 12 12M18 6 6 18" />,
  copy: <path d="M9 9h11v11H9zM5 15H4V4h11v1" />,
  check: <path d="m5 12.5 4.5 4.500L19 7.5" />,
  plus: <path d="M12 5v14M5 12h14" />,
  play: <path d="M7 4.500v15l12-7.500z" />,
  search: <path d="M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM20.5 20.500l-4.5-4.5" />,
  warning: <path d="M12 4 2.5 20h19zM12 10v4.500M12 17.300h.01" />,
  moon: <path d="M20 14.500A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.500z" />,
  sun: <path d="M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM12 2v2.500M12 19.500V22M2 12h2.500M19.5 12H22M5 5l1.8 1.800M17.2 17.2 19 19M19 5l-1.8 1.800M6.8 17.2 5 19" />,
  auto: <path d="M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18zM12 3v18" />,
  signout: <path d="M14 4h5v16h-5M4 12h11M11 8l4 4-4 4" />,
  key: <path d="M8 11a4 4 0 1 1 0 8 4 4 0 0 1 0-8zM11 12l9-9M16 7l3 3" />,
  more: <path d="M5 12h.01M12 12h.01M19 12h.01" />,
  down: <path d="m6 9 6 6 6-6" />,
  download: <path d="M12 4v11M7 11l5 5 5-5M4 20h16" />,
  trash: <path d="M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13" />,
  undo: <path d="M9 14 4 9l5-5M4 9h10a6 6 0 0 1 0 12h-3" />,
};

export type IconName = keyof typeof SHAPES;

/** Decoration: what it means is said in words beside it. */
export function Icon({ name, size = 16 }: { name: string; size?: number }) {
  return (
    <svg
      className="icon"
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth={1.8}
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
      focusable="false"
    >
      {SHAPES[name]}
    </svg>
  );
}

export function Mark({ size = 22 }: { size?: number }) {
  return (
    <svg className="mark" width={size} height={size} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <rect width="24" height="24" rx="5" />
      <g fill="none" stroke="#fff" strokeWidth="1.8" strokeLinecap="round" strokeLinejoin="round">
        <circle cx="12" cy="6.2" r="1.9" />
        <path d="M12 8.100v11M8.6 11h6.800M5 13.600c.4 3.4 3.2 5.5 7 5.500s6.6-2.1 7-5.5" />
      </g>
    </svg>
  );
}
