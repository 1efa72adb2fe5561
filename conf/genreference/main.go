// Command genreference writes the configuration reference to the file that is
// its argument.
package main

import (
	"bytes"
	"fmt"
	"os"

	"iked/conf"
)

func main() {
	var b bytes.Buffer
	err := conf.WriteReference(&b)
	if err == nil && len(os.Args) != 2 {
		err = fmt.Errorf("usage: genreference FILE")
	}
	if err == nil {
		err = os.WriteFile(os.Args[1], b.Bytes(), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "genreference:", err)
		os.Exit(1)
	}
}
