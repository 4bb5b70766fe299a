// The three lines of each framework that docs/browser.md has, in the least page that there is.

import { mount } from "svelte";
import Answer from "./Answer.svelte";
import { react } from "./react.jsx";
import { vue } from "./vue.js";

const svelte = (target, stream) => mount(Answer, { target, props: { stream } });

window.frameworks = { react, vue, svelte };
