import { useQuery } from "@tanstack/react-query";
import { type Image, images } from "../api/queries";
import { useSession } from "../api/session";
import { bytes, short } from "../lib/format";
import { Empty, Page, Tag, Trouble, Waiting } from "../ui/parts";
import { Table } from "../ui/table";

export function Images() {
  const { workspace, at } = useSession();
  const all = useQuery(images(workspace));
  return (
    <Page title="Images" about="Releases as OCI images, in this server's store">
      {all.isPending ? <Waiting /> : all.isError ? <Trouble error={all.error} /> : (
        <Table<Image>
          label="images"
          noun="image"
          rows={all.data}
          rowKey={({ name, digest }) => `${name}@${digest}`}
          href={({ digest }) => at("images", digest)}
          text={({ name, digest, base }) => `${name} ${digest} ${base ?? ""}`}
          empty={<Empty><code>moorline image build -f deployment.yml -t NAME</code> makes one; deployments on container hosts and clusters have theirs made.</Empty>}
          columns={[
            { title: "Name", cell: ({ name }) => <span className="cut">{name}</span>, width: "minmax(8rem, 2fr)" },
            { title: "Digest", cell: ({ digest }) => <span className="mono" title={digest}>{short(digest)}</span>, width: "8.5rem" },
            { title: "Size", cell: ({ size }) => bytes(size), right: true, width: "6rem" },
            { title: "Layers", cell: ({ layers }) => layers.length, right: true, wide: true, width: "4.5rem" },
            { title: "Platforms", cell: ({ platforms }) => platforms.map((one) => <Tag key={one}>{one}</Tag>), wide: true },
            { title: "Stands on", cell: ({ base }) => <span className="mono cut faint">{base ?? "nothing"}</span>, wide: true, width: "minmax(0, 2fr)" },
          ]}
        />
      )}
    </Page>
  );
}
