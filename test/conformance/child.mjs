// Runs the bundled specs on one backend under jasmine and writes {specs: {full name: status}, failures} as JSON.
//   NIFT_CONFORMANCE_BACKEND=name NIFT_CONFORMANCE_NAME=registered-as node child.mjs BUNDLE OUTPUT
import { writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import Jasmine from 'jasmine';

const [bundle, output] = process.argv.slice(2);
const jasmine = new Jasmine();
jasmine.configureDefaultReporter({ print: () => {} });
jasmine.clearReporters();
// Its exit code 4 means "not told that all is done"; the reporter below ends the process.
jasmine.checkExit = () => {};

const specs = {};
const failures = {};
jasmine.addReporter({
  specDone({ fullName, status, failedExpectations }) {
    // Some names occur more than once: count them apart.
    let name = fullName;
    for (let copy = 2; name in specs; copy++) name = `${fullName} #${copy}`;
    specs[name] = status;
    if (status === 'failed') failures[name] = failedExpectations.map((expectation) => expectation.message).join('\n');
  },
  jasmineDone() {
    writeFileSync(output, JSON.stringify({ specs, failures, isa: globalThis.niftIsa }));
    process.exit(0);
  },
});
process.on('unhandledRejection', (error) => {
  throw error;
});
await import(pathToFileURL(bundle).href);
jasmine.randomizeTests(false);
jasmine.execute();
