import { describe, expect, it } from "vitest";
import { escape, hover, label, summary } from "../src/describe";
import type { Checked } from "../src/protocol";
import { MATCH, SOURCE } from "./fixtures";

const CHECKED: Checked = {
  state: "checked",
  reason: null,
  indexes: [{ name: "stdlib", documents: 1200 }],
  covers_model: "full",
};
const place = { range: { start: { line: 0, character: 0 }, end: { line: 1, character: 0 } } };

describe("summary", () => {
  it("never words 'not checked' as 'nothing found'", () => {
    const text = summary({ checked: { ...CHECKED, state: "not_checked", reason: "no index. Build one." }, matches: [] });
    expect(text).toBe("Not checked: no index. Build one.");
  });

  it("never words 'nothing found' as 'original', and says what was searched", () => {
    const text = summary({ checked: CHECKED, matches: [] });
    expect(text).toBe("Checked against 1,200 documents of 'stdlib': nothing found (this does not mean that it is original).");
  });

  it("says so when the index is not known to be what the model was trained on", () => {
    expect(summary({ checked: { ...CHECKED, covers_model: "unknown" }, matches: [] })).toMatch(/not known to be/);
    expect(summary({ checked: { ...CHECKED, covers_model: "partial" }, matches: [] })).toMatch(/a part of/);
  });

  it("counts the passages and names a source with its licence", () => {
    const other = { ...MATCH, sources: [{ ...SOURCE, path: "Lib/other.py" }] };
    const text = summary({ checked: CHECKED, matches: [{ ...MATCH, ...place }, { ...other, ...place }] });
    expect(text).toBe("2 passages found in the training data: cpython Lib/textwrap.py · PSF-2.0, and 1 more.");
  });
});

describe("the policy", () => {
  it("is named where it allows all that was found, and what it allows is not counted beside the rest", () => {
    const allowed = { ...MATCH, ...place, decision: "allow" as const };
    expect(summary({ checked: CHECKED, matches: [allowed] })).toMatch(/^1 passage found in the training data that the policy allows/);
    expect(summary({ checked: CHECKED, matches: [allowed, { ...MATCH, ...place }] })).toMatch(/^1 passage found in the training data: /);
  });

  it("is named in the label of what it blocks", () => {
    expect(label({ ...MATCH, decision: "block" })).toMatch(/blocked by the policy$/);
  });
});

describe("label", () => {
  it("names the further sources by their number, and an unknown licence as unknown", () => {
    expect(label({ ...MATCH, source_count: 4 })).toBe("cpython Lib/textwrap.py · PSF-2.0 +3");
    expect(label({ ...MATCH, sources: [{ ...SOURCE, licenses: [] }] })).toMatch(/licence unknown/);
  });

  it("calls a renamed match possible", () => {
    expect(label({ ...MATCH, kind: "renamed" })).toMatch(/^possibly /);
  });
});

describe("hover", () => {
  it("names the run, the class, and each source with revision, lines, link and licence", () => {
    const { value } = hover(MATCH);
    expect(value).toContain("812 matching characters");
    expect(value).toContain("rare");
    expect(value).toContain("[Lib/textwrap.py:414–460](<https://example.org/cpython/textwrap.py#L414>)");
    expect(value).toContain("3.11.2");
    expect(value).toContain("**PSF\\-2.0**");
  });

  it("flags contradicting licences", () => {
    expect(hover({ ...MATCH, sources: [{ ...SOURCE, license_conflict: true }] }).value).toContain("$(warning)");
  });

  it("makes no link of an address that is not a web address", () => {
    const { value } = hover({ ...MATCH, sources: [{ ...SOURCE, url: "command:workbench.action.quit" }] });
    expect(value).not.toContain("command:");
  });

  it("says how many sources it leaves out", () => {
    const sources = Array.from({ length: 7 }, () => SOURCE);
    expect(hover({ ...MATCH, source_count: 30, sources }).value).toContain("25 more sources");
  });
});

describe("escape", () => {
  it("leaves no character with a meaning in Markdown or in VS Code's icons, and no line break", () => {
    expect(escape("[x](command:y) $(bug) <b>\n# z")).toBe("\\[x\\]\\(command:y\\) \\$\\(bug\\) \\<b\\> \\# z");
  });
});
