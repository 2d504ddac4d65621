"""May this be asked, and may this answer be shown?

limits      how many messages, how long: told at once, before there is a run
text        Unicode normalised; and the text as rules look at it
rules       what texts are searched for, and what is done about it; `builtin` are those that there always are, and
            `search` is how it is done
moderation  a model's judgement, by OpenAI's protocol
input       all of a prompt, before a provider is asked
output      an answer, sentence by sentence, while it comes; `sentences` finds where they end
guards      all of it as a worker has it
"""
