// Runs pieces of Groovy that come line by line as JSON, so that many tests share one JVM.
// A piece is [code, folder of the shared files, {variables}]; it answers {"value"} or {"error", "type"}.

def answers = System.out
System.out = System.err
def loaders = [:].withDefault { folder ->
    def loader = new GroovyClassLoader(getClass().classLoader)
    loader.addClasspath(folder)
    loader
}
System.in.withReader('UTF-8') { reader ->
    for (line in reader) {
        def (code, folder, variables) = new groovy.json.JsonSlurper().parseText(line)
        def answer
        try {
            answer = [value: new GroovyShell(loaders[folder], new Binding(variables)).evaluate(code)]
        } catch (Throwable error) {
            answer = [type: error.class.simpleName, error: error.message]
        }
        answers.println(groovy.json.JsonOutput.toJson(answer))
        answers.flush()
    }
}
