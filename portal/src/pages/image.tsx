import { queryOptions, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useParams } from "wouter";
import { answer, api } from "../api/client";
import { image as one, type Image as Shown } from "../api/queries";
import { useSession } from "../api/session";
import { bytes, plural, short } from "../lib/format";
import { Button, Card, Copy, Empty, Facts, Page, Tag, Trouble, Waiting } from "../ui/parts";
import { Table } from "../ui/table";

const KINDS: Record<string, string> = { base: "--line-6", engine: "--line-5", scorer: "--line-4", environment: "--line-2", model: "--line-1", code: "--line-3", release: "--text-faint" };
const SAID: Record<string, string> = { sbom: "SBOM (SPDX)", provenance: "Provenance", signature: "Signature", other: "Other" };

const packages = (workspace: string, image: string) =>
  queryOptions({
    queryKey: ["packages", workspace, image],
    queryFn: () => answer(api.GET("/api/v1/workspaces/{workspace}/images/{image}/packages", { params: { path: { workspace, image } } })).then(({ value }) => value),
    staleTime: Infinity,
    retry: false,
  });

export function Image() {
  const { workspace, at } = useSession();
  const digest = decodeURIComponent(useParams<{ image: string }>().image);
  const found = useQuery(one(workspace, digest));
  const image = found.data;
  return (
    <Page title={image?.name ?? short(digest)} crumbs={<Link href={at("images")}>Images</Link>} about={image && <><span className="mono">{short(image.digest)}</span> {image.platforms.map((one) => <Tag key={one}>{one}</Tag>)}</>}>
      {found.isError ? <Trouble error={found.error} /> : !image ? <Waiting /> : (
        <>
          <Layers image={image} />
          <div className="columns">
            <Card title="What is said about it" flush>
              {!image.referrers || image.referrers.length === 0 ? <Empty>Nothing: it has no SBOM and nobody has signed it.</Empty> : (
                <ul className="lines">
                  {image.referrers.map(({ kind, digest, artifact_type }) => (
                    <li key={digest}>
                      <Tag tone={kind === "signature" ? "good" : "calm"}>{SAID[kind] ?? kind}</Tag>
                      <span className="mono" title={digest}>{short(digest)}</span>
                      <span className="faint cut grow">{artifact_type}</span>
                    </li>
                  ))}
                </ul>
              )}
            </Card>
            <Card title="Image">
              <Facts
                of={[
                  ["Digest", <span className="mono cut">{image.digest} <Copy text={image.digest} label="Copy the digest" /></span>],
                  ["Size", bytes(image.size)],
                  ["Stands on", image.base && <span className="mono cut">{image.base}</span>],
                  ["Entry point", <span className="mono">{image.entrypoint.join(" ")}</span>],
                ]}
              />
              <details>
                <summary>{plural(Object.keys(image.labels).length, "label")}</summary>
                <Facts of={Object.entries(image.labels as Record<string, string>).map(([name, value]) => [name, <span className="mono cut" key={name}>{value}</span>])} />
              </details>
            </Card>
          </div>
          {image.referrers?.some(({ kind }) => kind === "sbom") && <Packages image={image.digest} />}
        </>
      )}
    </Page>
  );
}

function Layers({ image }: { image: Shown }) {
  return (
    <Card title={`Layers (${image.layers.length})`} flush>
      <div className="layer-bar" aria-hidden="true">
        {image.layers.map(({ digest, kind, size }, index) => (
          <span key={`${digest}-${index}`} title={`${kind}, ${bytes(size)}`} style={{ flexGrow: Math.max(size, image.size / 100), background: `var(${KINDS[kind] ?? "--text-faint"})` }} />
        ))}
      </div>
      <ul className="lines">
        {image.layers.map(({ kind, digest, size }, index) => (
          <li key={`${digest}-${index}`}>
            <span className="share-name"><span className="swatch" style={{ background: `var(${KINDS[kind] ?? "--text-faint"})` }} aria-hidden="true" /> {kind}</span>
            <span>{bytes(size)}</span>
            <span className="mono faint grow" title={digest}>{short(digest)}</span>
          </li>
        ))}
      </ul>
    </Card>
  );
}

/** What its SBOM lists; asked for when somebody wants to see it. */
function Packages({ image }: { image: string }) {
  const { workspace } = useSession();
  const [open, show] = useState(false);
  const found = useQuery({ ...packages(workspace, image), enabled: open });
  return (
    <Card title="What is in it" flush actions={!open && <Button onClick={() => show(true)}>Show the packages</Button>}>
      {!open ? <Empty>The SBOM lists every package.</Empty> : found.isError ? <Trouble error={found.error} /> : !found.data ? <Waiting /> : (
        <Table
          label="packages"
          noun="package"
          rows={found.data}
          rowKey={({ name, version }) => `${name}@${version}`}
          text={({ name, version, license }) => `${name} ${version} ${license ?? ""}`}
          empty={<Empty>It lists none.</Empty>}
          columns={[
            { title: "Package", cell: ({ name }) => <span className="cut">{name}</span>, width: "minmax(0, 2fr)" },
            { title: "Version", cell: ({ version }) => <span className="mono cut">{version}</span> },
            { title: "Licence", cell: ({ license }) => <span className="cut faint">{license ?? "not stated"}</span>, wide: true },
          ]}
        />
      )}
    </Card>
  );
}
