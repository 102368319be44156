// Assess says what GitOps tools make of resources, by the code that they use themselves: kstatus (Flux, and kpt's and
// Kustomize's controllers) and a health script run by gopher-lua (Argo CD).
//
// Usage: assess HEALTH.LUA < one JSON manifest a line > one JSON verdict a line
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Kstatus        string `json:"kstatus"`
	KstatusMessage string `json:"kstatusMessage"`
	Argo           string `json:"argo"`
	ArgoMessage    string `json:"argoMessage"`
}

func main() {
	if err := run(os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(script string, input io.Reader, output io.Writer) error {
	source, err := os.ReadFile(script)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(input)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		found, err := assess(string(source), lines.Bytes())
		if err != nil {
			return err
		}
		if err := json.NewEncoder(output).Encode(found); err != nil {
			return err
		}
	}
	return lines.Err()
}

func assess(script string, manifest []byte) (verdict, error) {
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(manifest); err != nil {
		return verdict{}, err
	}
	computed, err := status.Compute(object)
	if err != nil {
		return verdict{}, err
	}
	health, message, err := argoHealth(script, object.Object)
	return verdict{computed.Status.String(), computed.Message, health, message}, err
}

// argoHealth runs a script as Argo CD does: the libraries that it opens, the resource as `obj`, a table as the result.
func argoHealth(script string, object map[string]interface{}) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage}, // must be the first
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
		{lua.StringLibName, lua.OpenString},
	} {
		call := lua.P{Fn: state.NewFunction(library.open), Protect: true}
		if err := state.CallByParam(call, lua.LString(library.name)); err != nil {
			return "", "", err
		}
	}
	state.SetGlobal("obj", luaValue(state, object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	result, isTable := state.Get(-1).(*lua.LTable)
	if !isTable {
		return "", "", fmt.Errorf("the script returned no table but %s", state.Get(-1).Type())
	}
	message := result.RawGetString("message")
	if message == lua.LNil {
		message = lua.LString("")
	}
	return result.RawGetString("status").String(), message.String(), nil
}

func luaValue(state *lua.LState, value interface{}) lua.LValue {
	switch typed := value.(type) {
	case map[string]interface{}:
		table := state.NewTable()
		for key, entry := range typed {
			table.RawSetString(key, luaValue(state, entry))
		}
		return table
	case []interface{}:
		table := state.NewTable()
		for _, entry := range typed {
			table.Append(luaValue(state, entry))
		}
		return table
	case string:
		return lua.LString(typed)
	case bool:
		return lua.LBool(typed)
	case int64:
		return lua.LNumber(typed)
	case float64:
		return lua.LNumber(typed)
	default:
		return lua.LNil
	}
}
