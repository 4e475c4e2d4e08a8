// The two keys, kept in this tab's sessionStorage and nowhere else. Knows nothing of what they open.

const NAMES = { asking: "onceedit-asking-key", editing: "onceedit-editing-key" };

/** The store `keys`: `asking` and `editing`, the dialog in which they are typed, and who waits for them. */
export const keys = {
  asking: sessionStorage.getItem(NAMES.asking) ?? "",
  editing: sessionStorage.getItem(NAMES.editing) ?? "",
  typed: { asking: "", editing: "" },
  refused: "",
  version: 0, // grows with every change: whoever loads data watches it

  open(refused = "") {
    this.refused = refused;
    this.typed = { asking: this.asking, editing: this.editing };
    const dialog = document.getElementById("keys");
    dialog.showModal();
    dialog.querySelector(`#key-${refused || "asking"}`).focus();
  },

  close() {
    document.getElementById("keys").close();
  },

  keep() {
    for (const [kind, name] of Object.entries(NAMES)) {
      this[kind] = this.typed[kind].trim();
      if (this[kind]) sessionStorage.setItem(name, this[kind]);
      else sessionStorage.removeItem(name);
    }
    this.version += 1;
    this.close();
  },

  forget() {
    this.typed = { asking: "", editing: "" };
    this.keep();
  },
};
