// Puts the parts of the page together.

import Alpine from "./vendor/alpinejs-csp-3.17.4.esm.min.js";

import { asking } from "./asking.js";
import { editing } from "./editing.js";
import { keys } from "./keys.js";

Alpine.store("keys", keys);
Alpine.store("facts", { live: [] }); // prompts of the newest live edits, for those who look for a question
Alpine.data("asking", asking);
Alpine.data("editing", editing);
Alpine.start();
