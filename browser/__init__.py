"""The code that runs in a browser: plain ES modules, served under `/_headgate/`, packed for npm; nothing in
Python.

Read `client.js` first for pages that are written for it, `attach/live.js` for pages that nobody changes,
`components.js` for the elements. A folder has the parts of the module that has its name.
"""
