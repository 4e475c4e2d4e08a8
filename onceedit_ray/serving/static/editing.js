// The edits and the versions they made: adding, watching on the way to live, deleting, rolling back.

import { call } from "./api.js";

const STEPS = ["queued", "training", "evaluating", "live"];
const UNDER_WAY = ["queued", "training", "evaluating", "deleting"];
const PAGE = 20;
const EACH_MS = 1000; // between looks at what is under way
const READ_EACH = 10; // looks between two readings of the lists: others edit too
const TRIES = 2; // live edits that are offered as questions

const UNKNOWN = [404, 501]; // statuses of a server that takes no edits

const refused = (error) => [401, 403].includes(error.status);
const blank = () => ({ prompt: "", target_new: "", subject: "", rephrasings: "" });
const quoted = (edit) => `“${edit.prompt}” → “${edit.target_new}”`;

export const editing = () => ({
  steps: STEPS,
  form: blank(),
  sending: false,
  edits: [],
  more: false,
  versions: [],
  offered: true, // whether this server takes edits
  loaded: false,
  changes: 0, // of what is shown; an older reading of the lists does not undo them
  confirming: "",
  problem: { message: "", status: 0 }, // of the form
  trouble: { message: "", status: 0 }, // of the lists
  said: "",
  looks: 0,
  timer: 0,

  init() {
    this.$watch("$store.keys.version", () => this.load());
    this.load().then(() => this.look());
  },

  request(path, options = {}) {
    return call(path, { ...options, key: this.$store.keys.editing });
  },

  async load() {
    await this.attempt(async () => {
      const { changes } = this;
      const count = Math.max(PAGE, this.edits.length);
      const [edits, versions] = await Promise.all([this.request(`edits?limit=${count}`), this.request("versions")]);
      this.offered = this.loaded = true;
      if (changes !== this.changes) return;
      this.edits = edits.data;
      this.more = edits.has_more ?? edits.data.length === count;
      this.versions = versions.data;
      this.tell();
      if (refused(this.problem)) this.problem = { message: "", status: 0 };
    });
  },

  async older() {
    await this.attempt(async () => {
      const after = encodeURIComponent(this.edits.at(-1).id);
      const { data, has_more: more } = await this.request(`edits?limit=${PAGE}&after=${after}`);
      this.edits.push(...data);
      this.more = more ?? data.length === PAGE;
    });
  },

  /** Look at what is under way, again and again. */
  async look() {
    clearTimeout(this.timer);
    this.looks += 1;
    const batches = new Set(this.edits.filter((edit) => this.underWay(edit)).map((edit) => edit.batch));
    if (batches.size) await this.attempt(() => Promise.all([...batches].map((batch) => this.watch(batch))));
    if (this.looks % READ_EACH === 0 && this.offered && !refused(this.trouble) && !document.hidden) {
      await this.load();
    }
    this.timer = setTimeout(() => this.look(), EACH_MS);
  },

  async watch(batch) {
    const { data } = await this.request(`edits/${encodeURIComponent(batch)}`);
    const ended = data.filter((edit) => this.take(edit) && !this.underWay(edit));
    if (!ended.length) return;
    this.said = ended.map((edit) => `${quoted(edit)} is ${edit.status}.`).join(" ");
    this.versions = (await this.request("versions")).data;
  },

  /** Put an edit as the server tells it in its place; says whether its status is another. */
  take(edit) {
    const at = this.edits.findIndex((known) => known.id === edit.id);
    if (at < 0) return false;
    const moved = this.edits[at].status !== edit.status;
    this.edits[at] = edit;
    this.changes += 1;
    this.tell();
    return moved;
  },

  /** Let the other half of the page know what can be asked about. */
  tell() {
    const live = this.edits.filter((edit) => edit.status === "live").map((edit) => edit.prompt);
    this.$store.facts.live = [...new Set(live)].slice(0, TRIES);
  },

  async add() {
    this.sending = true;
    this.problem = { message: "", status: 0 };
    try {
      const batch = await this.request("edits", { method: "POST", body: this.written() });
      this.edits.unshift(...batch.data.filter((edit) => !this.edits.some((known) => known.id === edit.id)));
      this.changes += 1;
      this.said = `Queued: ${batch.data.map(quoted).join(", ")}.`;
      this.form = blank();
      this.$refs.more.open = false;
      this.look();
    } catch (error) {
      this.problem = { message: error.message, status: error.status ?? 0 };
    } finally {
      this.sending = false;
    }
  },

  written() {
    const { prompt, target_new, subject, rephrasings } = this.form;
    const asked = rephrasings.split("\n").map((line) => line.trim()).filter(Boolean);
    const edit = { prompt: prompt.trim(), target_new: target_new.trim() };
    if (subject.trim()) edit.subject = subject.trim();
    if (asked.length) edit.rephrasings = asked;
    return edit;
  },

  async remove(edit) {
    this.confirming = "";
    await this.attempt(async () => {
      this.take(await this.request(`edits/${encodeURIComponent(edit.id)}`, { method: "DELETE" }));
      this.said = `Deleting ${quoted(edit)}: a version without it is being made.`;
    });
  },

  async activate(version) {
    await this.attempt(async () => {
      await this.request(`versions/${encodeURIComponent(version.id)}/activate`, { method: "POST" });
      this.said = `Version ${version.id} is live.`;
      await this.load();
    });
  },

  async attempt(work) {
    try {
      await work();
      this.trouble = { message: "", status: 0 };
    } catch (error) {
      if (refused(error)) this.hide();
      if (UNKNOWN.includes(error.status) && !this.loaded) this.offered = false;
      else this.trouble = { message: error.message, status: error.status ?? 0 };
    }
  },

  /** Without a key that opens it, nothing stays on the page. */
  hide() {
    this.edits = [];
    this.versions = [];
    this.loaded = false;
    this.changes += 1;
    this.tell();
  },

  askAbout(edit) {
    this.$dispatch("ask-this", edit.prompt);
  },

  refused,

  // What the lists show.
  get kept() {
    return this.edits.filter((edit) => edit.status !== "deleted");
  },

  underWay(edit) {
    return UNDER_WAY.includes(edit.status);
  },

  deletable(edit) {
    return !["deleting", "deleted", "refused"].includes(edit.status);
  },

  stepClass(edit, step) {
    const [at, here] = [STEPS.indexOf(step), STEPS.indexOf(edit.status)];
    if (at === here) return "here";
    return at < here ? "past" : "";
  },

  percent(edit) {
    return `${Math.round(100 * (edit.progress ?? 0))} %`;
  },

  activateText(version) {
    const active = this.versions.find((each) => each.active);
    return active && version.created <= active.created ? "Roll back" : "Activate";
  },

  countText(version) {
    return version.edits === 1 ? "1 edit" : `${version.edits} edits`;
  },

  when(seconds) {
    return new Date(1000 * seconds).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  },

  /** A report's figures, one a line: nested names joined, numbers short. */
  figures(report) {
    const rows = [];
    const walk = (value, name) => {
      if (value !== null && typeof value === "object") {
        for (const [key, inner] of Object.entries(value)) walk(inner, name ? `${name} · ${key}` : key);
      } else {
        const short = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value);
        rows.push({ name: name.replaceAll("_", " "), value: short });
      }
    };
    walk(report ?? {}, "");
    return rows;
  },
});
