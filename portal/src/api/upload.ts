// Files from the browser into the workspace's blob store: hashed, then sent in pieces, going on where an earlier attempt
// ended, as the command line does.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { Refusal, refused, send } from "./client";

export interface Entry {
  path: string;
  size: number;
  sha256: string;
}

/** One piece: what is sent again at most after a broken connection. */
const PIECE = 8 << 20;
/** Waits between attempts that bring no progress, in milliseconds. */
const AGAIN = [200, 500, 1000, 2000, 5000];

/** A file, and where it belongs in the model. */
export interface Source {
  path: string;
  file: File;
}

export interface Progress {
  doing: "reading" | "sending";
  done: number;
  total: number;
}

/** Makes sure that the server has all of these files, and tells their entries. */
export async function store(
  workspace: string,
  sources: Source[],
  tell: (progress: Progress) => void,
  signal: AbortSignal,
): Promise<Entry[]> {
  const total = sources.reduce((sum, { file }) => sum + file.size, 0);
  const entries: Entry[] = [];
  let done = 0;
  for (const { path, file } of sources) {
    const digest = await hash(file, signal, (read) => tell({ doing: "reading", done: done + read, total }));
    done += file.size;
    entries.push({ path, size: file.size, sha256: digest });
  }
  done = 0;
  for (const [index, { file }] of sources.entries()) {
    const before = done;
    await upload(workspace, entries[index]!, file, signal, (sent) => tell({ doing: "sending", done: before + sent, total }));
    done += file.size;
  }
  return entries;
}

async function hash(file: File, signal: AbortSignal, tell: (read: number) => void): Promise<string> {
  // The browser's own digest wants the whole file at once, and a page without TLS has none.
  const digest = sha256.create();
  for (let at = 0; at < file.size; at += PIECE) {
    signal.throwIfAborted();
    digest.update(new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer()));
    tell(Math.min(at + PIECE, file.size));
    // The page goes on to answer meanwhile.
    await new Promise((resolve) => setTimeout(resolve));
  }
  return `sha256:${bytesToHex(digest.digest())}`;
}

async function upload(workspace: string, entry: Entry, file: File, signal: AbortSignal, tell: (sent: number) => void): Promise<void> {
  const url = `/api/v1/workspaces/${encodeURIComponent(workspace)}/blobs/${entry.sha256}`;
  const look = await send(url, { method: "HEAD", signal });
  if (look.ok) return tell(entry.size);
  let offset = offsetOf(look);
  if (offset === undefined) throw new Refusal(`the server could not look for ${entry.path}`, look.status);
  const waits = [...AGAIN];
  for (;;) {
    const again = async (error: Refusal) => {
      const wait = waits.shift();
      if (wait === undefined) throw error;
      await new Promise((resolve) => setTimeout(resolve, wait));
    };
    try {
      const response = await send(`${url}?size=${entry.size}`, {
        method: "PATCH",
        headers: { "upload-offset": String(offset), "content-type": "application/octet-stream" },
        body: file.slice(offset, offset + PIECE),
        signal,
      });
      const reached = offsetOf(response);
      if (response.status === 201) return tell(entry.size);
      if (response.status === 204 && reached !== undefined) offset = reached;
      else if (response.status === 409 && reached !== undefined && reached !== offset) offset = reached;
      else if ([408, 429, 502, 503, 504].includes(response.status)) await again(await refused(response));
      else throw await refused(response);
      tell(offset);
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 0) throw error;
      await again(error);
    }
  }
}

function offsetOf(response: Response): number | undefined {
  const text = response.headers.get("upload-offset");
  return text === null ? undefined : Number(text);
}
