// Command dashboard_check reads Grafana dashboards strictly: by Grafana's own schema, in which a field that does not exist, one of
// the wrong type or a value out of range is an error. Panel options and queries of the kinds that Grafana brings are read so too.
//
//	dashboard_check FILE...
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	failed := false
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func check(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var read dashboard.Dashboard
	if err := read.UnmarshalJSONStrict(content); err != nil && !isEmpty(err) {
		return err
	}
	return read.Validate()
}

// The reader returns a list of errors as an error, also where the list has none.
func isEmpty(err error) bool {
	var errs cog.BuildErrors
	return errors.As(err, &errs) && len(errs) == 0
}
