import type { Match, Source } from "../src/protocol";

export const SOURCE: Source = {
  name: "cpython",
  revision: "3.11.2",
  path: "Lib/textwrap.py",
  start_line: 414,
  end_line: 460,
  url: "https://example.org/cpython/textwrap.py#L414",
  licenses: ["PSF-2.0"],
  license_conflict: false,
};

export const MATCH: Match = { kind: "verbatim", run: 812, class: "rare", decision: "annotate", source_count: 1, sources: [SOURCE] };
